//! SMS and e-mail: which messages leave, by which way. Where a user is reached is looked up when they are sent.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use crate::config::{Notices, Texts};
use crate::db::delivery::{self, Delivery, Kind as Call};
use crate::db::tx::Draft;
use crate::db::{DbError, Tx, contacts, outbox};
use crate::delivery::Providers;
use crate::domain::event::{Group, OrderNotification};
use crate::domain::notice::Way;
use crate::mq::{Event, Handler, Outcome};

/// The longest id that a consumer takes.
const EVENT_ID_MAX: usize = 96;

/// Where messages leave, as configured. A cheap clone.
#[derive(Clone, Debug)]
pub struct Outlets {
    texts: Texts,
    providers: Providers,
}

/// A message to a user that is in the application now.
#[derive(Debug)]
pub(super) struct Told<'e> {
    /// What caused it.
    pub event: &'e Event,
    /// What it says.
    pub body: OrderNotification,
}

impl Outlets {
    /// As configured: without a provider nothing leaves.
    #[must_use]
    pub fn new(notices: &Notices) -> Self {
        Self { texts: Texts::new(notices), providers: Providers::new(notices) }
    }

    /// The consumer group of a way.
    #[must_use]
    pub fn handler(&self, way: Way) -> Arc<dyn Handler> {
        Arc::new(NoticeEvents { outlets: self.clone(), way })
    }

    /// Emits an event for each way by which a message is to leave: there is a provider and a text, and the user is known
    /// and has not switched it off.
    pub(super) async fn pass_on(&self, tx: &mut Tx, told: Vec<Told<'_>>) -> Result<(), DbError> {
        let mut wanted = Vec::new();
        for way in Way::ALL.into_iter().filter(|way| self.providers.url(*way).is_some()) {
            let topic = |one: &Told<'_>| self.texts.topic(&one.body.template, way);
            wanted.extend(told.iter().filter_map(|one| topic(one).map(|topic| (way, topic, one))));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let users = wanted.iter().map(|(.., one)| one.body.user_id.0).collect();
        let contacts = contacts::of_users(tx, users).await?;
        // Of most users nothing is known: an event for each of their messages would end in nothing.
        wanted.retain(|(way, topic, one)| {
            contacts.get(&one.body.user_id.0).is_some_and(|contact| contact.wants(*way, *topic))
        });
        let named: Vec<_> = wanted.iter().map(|(way, _, one)| (*way, discriminator(*way, one), *one)).collect();
        let id = |way: Way, told: &Told<'_>, of: &str| format!("{}:{of}", way.event().event_id(told.body.order_id));
        // What the inbox has forgotten may come again.
        let ids = named.iter().map(|(way, of, one)| id(*way, one, of)).collect();
        let mut written: HashSet<String> = outbox::existing(tx, ids).await?;
        for (way, of, one) in &named {
            if written.insert(id(*way, one, of)) {
                let draft = Draft::new(way.event(), one.body.order_id, &one.body, one.event.trace.as_deref());
                tx.emit(&Draft { discriminator: of, ..draft })?;
            }
        }
        Ok(())
    }
}

/// Tells the messages about one order apart, the same at each repetition: the id of what caused them, less the order in
/// front of it; a digest where that is not its form, or too long.
fn discriminator(way: Way, told: &Told<'_>) -> String {
    let (order_id, cause) = (told.body.order_id, told.event.id.as_str());
    let room = EVENT_ID_MAX.saturating_sub(way.event().event_id(order_id).len() + 1);
    let short = cause.strip_prefix(&order_id.to_string()).and_then(|rest| rest.strip_prefix(':'));
    match short.filter(|short| !short.is_empty() && short.len() <= room) {
        Some(short) => short.to_owned(),
        None => hex::encode(Sha256::digest(cause.as_bytes())).chars().take(32).collect(),
    }
}

/// `sms-consumer-group` and `email-consumer-group`: record the calls to the providers.
#[derive(Clone, Debug)]
struct NoticeEvents {
    outlets: Outlets,
    way: Way,
}

impl NoticeEvents {
    fn call(&self, tx: &Tx, event: &Event) -> Result<Delivery, Outcome> {
        let body: OrderNotification = event.read()?;
        // It says where it would go now; when it is made, the configuration of that time counts.
        let url = self
            .outlets
            .providers
            .url(self.way)
            .ok_or_else(|| Outcome::Ignored("no provider is configured".to_owned()))?;
        if self.outlets.texts.topic(&body.template, self.way).is_none() {
            let name: String = body.template.chars().take(64).collect();
            return Err(Outcome::Reject(format!("there is no text {name:?} for it: see notices.templates")));
        }
        Ok(Delivery {
            id: tx.next_id(),
            kind: match self.way {
                Way::Sms => Call::Sms,
                Way::Email => Call::Email,
            },
            reference: event.id.clone(),
            order_id: body.order_id.0,
            url: url.to_owned(),
            body: serde_json::to_string(&body).map_err(|error| Outcome::Reject(error.to_string()))?,
            attempts: 0,
            next_at: tx.now_ms(),
            trace: event.trace.clone(),
        })
    }
}

impl Handler for NoticeEvents {
    fn group(&self) -> Group {
        match self.way {
            Way::Sms => Group::Sms,
            Way::Email => Group::Email,
        }
    }

    fn handle<'a>(&'a self, tx: &'a mut Tx, events: &'a [Event]) -> BoxFuture<'a, Result<Vec<Outcome>, DbError>> {
        Box::pin(async move {
            let (mut calls, mut outcomes) = (Vec::new(), Vec::with_capacity(events.len()));
            for event in events {
                outcomes.push(match self.call(tx, event) {
                    Ok(call) => {
                        calls.push(call);
                        Outcome::Done
                    }
                    Err(outcome) => outcome,
                });
            }
            if !calls.is_empty() {
                // One message for each event, however often that comes.
                delivery::insert(tx, &calls).await?.or_known();
            }
            Ok(outcomes)
        })
    }
}
