//! Messages to users: who is told what is in the row of the call, where the user is reached is looked up when it is made,
//! and neither number nor address leaves this module except to the provider.

mod quiet;
mod smtp;

use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;

pub(super) use self::smtp::Sent;
use self::smtp::{Mail, Server};
use super::schedule::Outcome;
use crate::config::{Notices, Texts};
use crate::db::delivery::{Delivery, Kind};
use crate::db::{Db, DbError, contacts};
use crate::domain::event::OrderNotification;
use crate::domain::id::millisecond_of;
use crate::domain::notice::Way;

/// The providers, as configured; by default none.
#[derive(Default)]
pub(super) struct Senders {
    texts: Texts,
    sms: Option<Sms>,
    email: Option<Result<Server, String>>,
}

struct Sms {
    endpoint: String,
    secret: SecretString,
    sign_name: String,
}

/// A message that is ready to be sent.
pub(super) enum Ready {
    /// To be posted to the provider.
    Sms(Box<Post>),
    /// To be handed to the mail server.
    Mail(Box<Mail>),
}

/// A text message as its provider takes it.
pub(super) struct Post {
    pub url: String,
    pub secret: SecretString,
    /// What is sent.
    pub body: String,
    /// What people may see of it.
    pub shown: String,
    /// The number, which no answer may show.
    pub to: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SmsBody<'a> {
    to: &'a str,
    text: &'a str,
    template: &'a str,
    params: &'a Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    sign_name: &'a str,
    idempotency_key: String,
}

/// The way of a kind of call, if it is a message to a user.
pub(super) fn way(kind: Kind) -> Option<Way> {
    match kind {
        Kind::Sms => Some(Way::Sms),
        Kind::Email => Some(Way::Email),
        _ => None,
    }
}

impl Senders {
    pub fn new(notices: &Notices) -> Self {
        let (sms, email) = (&notices.sms, &notices.email);
        Self {
            texts: Texts::new(notices),
            sms: (!sms.endpoint.is_empty()).then(|| Sms {
                endpoint: sms.endpoint.clone(),
                secret: sms.secret.clone(),
                sign_name: sms.sign_name.clone(),
            }),
            email: (!email.host.is_empty()).then(|| Server::new(email)),
        }
    }

    /// Why nothing can be sent by what is configured.
    pub fn broken(&self) -> Option<&str> {
        self.email.as_ref()?.as_ref().err().map(String::as_str)
    }

    /// The mail server.
    pub fn server(&self) -> Option<&Server> {
        self.email.as_ref()?.as_ref().ok()
    }

    /// Looks up whom the call is to, and fills its text.
    ///
    /// # Errors
    /// What came of the call, when nothing is to be sent now.
    pub async fn ready(&self, db: &Db, call: &Delivery, way: Way) -> Result<Ready, Outcome> {
        let body: OrderNotification = serde_json::from_str(&call.body)
            .map_err(|error| Outcome::Refused(format!("the body cannot be read: {error}")))?;
        let unsent = |why: &str| Outcome::Unsent(format!("not sent: {why}"));
        let configured = match way {
            Way::Sms => self.sms.is_some(),
            Way::Email => self.server().is_some(),
        };
        let topic = self.texts.topic(&body.template, way);
        let (true, Some(topic)) = (configured, topic) else {
            let why =
                if configured { "there is no text for it any more" } else { "no provider is configured any more" };
            return Err(unsent(why));
        };
        let now_ms = db.clock().now_ms();
        let contact = match contact(db, body.user_id.0).await {
            Ok(contact) => contact.unwrap_or_default(),
            Err(error) => return Err(Outcome::unread("the contact", &error, now_ms)),
        };
        if !contact.wants(way, topic) {
            return Err(unsent("the user has switched it off"));
        }
        let to = match way {
            Way::Sms => contact.phone.as_deref().ok_or_else(|| unsent("no phone number is known"))?,
            Way::Email => contact.email.as_deref().ok_or_else(|| unsent("no e-mail address is known"))?,
        };
        let quiet = contact.quiet.as_ref().filter(|_| way == Way::Sms);
        if let Some(until_ms) = quiet.and_then(|hours| quiet::until(hours, now_ms)) {
            return Err(Outcome::Wait { why: "waits for the end of the user's quiet hours".to_owned(), until_ms });
        }
        let filled = self.texts.fill(&body.template, way, contact.language, body.order_id.0, &body.params);
        let filled = filled.map_err(Outcome::Refused)?;
        match (way, &self.sms) {
            (Way::Sms, Some(sms)) => self.post(sms, call, &body, to, &filled.text),
            _ => Mail::new(call.id, to, filled, millisecond_of(call.id))
                .map(|mail| Ready::Mail(Box::new(mail)))
                .map_err(Outcome::Refused),
        }
    }

    fn post(
        &self,
        sms: &Sms,
        call: &Delivery,
        body: &OrderNotification,
        to: &str,
        text: &str,
    ) -> Result<Ready, Outcome> {
        let write = |to: &str| {
            let template = body.template.as_str();
            let (params, sign_name, idempotency_key) = (&body.params, sms.sign_name.as_str(), call.id.to_string());
            let body = SmsBody { to, text, template, params, sign_name, idempotency_key };
            serde_json::to_string(&body)
                .map_err(|error| Outcome::Refused(format!("the body cannot be written: {error}")))
        };
        let (sent, shown) = (write(to)?, write(super::mask::MASK)?);
        let (url, secret) = (sms.endpoint.clone(), sms.secret.clone());
        Ok(Ready::Sms(Box::new(Post { url, secret, body: sent, shown, to: to.to_owned() })))
    }
}

async fn contact(db: &Db, user_id: i64) -> Result<Option<contacts::Contact>, DbError> {
    contacts::of_user(&mut *db.read().await?, user_id).await
}
