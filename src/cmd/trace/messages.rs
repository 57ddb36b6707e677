//! The events of a story: outbox, inboxes, retry logs.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{Doubtful, Source, Step, Story, span};
use crate::audit::RoleDbs;
use crate::cmd::journal::rfc3339;
use crate::db::outbox::log::{self, Logged};
use crate::db::outbox::{HELD, Status};
use crate::db::trace::{self as facts, Failing, Handled};
use crate::db::{DbError, inbox, retry};
use crate::domain::event::{Group, Kind, Producer};

/// What is written about the events of one key, or about one event.
#[derive(Default)]
pub(super) struct Messages {
    /// Of one event only.
    pub only: Option<String>,
    /// Outbox rows, dead letters among them.
    pub logged: Vec<Logged>,
    handled: Vec<Handled>,
    failing: Vec<Failing>,
    /// Attempts with a local transaction: event, committed, when.
    transactions: Vec<(String, bool, i64)>,
}

impl Messages {
    /// All of a business key.
    ///
    /// # Errors
    /// The database's.
    pub async fn of_key(dbs: &RoleDbs, key: &str) -> Result<Self, DbError> {
        let mut found = Self::default();
        for db in dbs.distinct() {
            let mut conn = db.read().await?;
            found.logged.extend(log::of_key(&mut conn, key).await?);
            let handled = facts::handled_of_key(&mut conn, key).await?;
            let mut ids: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for one in &handled {
                ids.entry(&one.group).or_default().push(one.event_id.clone());
            }
            for (group, ids) in ids {
                found.failing.extend(facts::failing(&mut conn, group, ids).await?);
            }
            found.handled.extend(handled);
            let events = vec![Kind::PaymentSuccess.event_id(key)];
            found.transactions.extend(facts::transactions(&mut conn, events).await?);
        }
        Ok(found)
    }

    /// One event.
    ///
    /// # Errors
    /// The database's.
    pub async fn of_event(dbs: &RoleDbs, id: &str) -> Result<Self, DbError> {
        let groups = Group::ALL.map(Group::name);
        let mut found = Self { only: Some(id.to_owned()), ..Self::default() };
        for db in dbs.distinct() {
            let mut conn = db.read().await?;
            found.logged.extend(log::of_events(&mut conn, vec![id.to_owned()]).await?);
            found.handled.extend(facts::handled_of_event(&mut conn, &groups, id).await?);
            for group in groups {
                found.failing.extend(facts::failing(&mut conn, group, vec![id.to_owned()]).await?);
            }
            found.transactions.extend(facts::transactions(&mut conn, vec![id.to_owned()]).await?);
        }
        Ok(found)
    }

    /// The business keys that they have.
    pub fn keys(&self) -> BTreeSet<&str> {
        let logged = self.logged.iter().map(|row| row.key.as_str());
        logged.chain(self.handled.iter().map(|row| row.key.as_str())).collect()
    }

    /// The topics that they are on: catalogue names, and `%DLQ%<group>`.
    pub fn topics(&self) -> BTreeSet<String> {
        let dead = self.handled.iter().filter(|row| row.outcome == inbox::Outcome::Dead as i64);
        let dead = dead.map(|row| format!("%DLQ%{}", row.group));
        let decided = self.transactions.iter().map(|_| Kind::PaymentSuccess.name().to_owned());
        let logged = self.logged.iter().map(|row| row.topic.clone());
        logged.chain(self.handled.iter().map(|row| row.topic.clone())).chain(dead).chain(decided).collect()
    }

    /// Each event that was handled: its topic, its id, and when it was handled first, epoch ms.
    pub fn first_handled(&self) -> Vec<(&str, &str, i64)> {
        let mut first: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for row in &self.handled {
            let at_ms = first.entry((&row.topic, &row.event_id)).or_insert(row.at);
            *at_ms = row.at.min(*at_ms);
        }
        first.into_iter().map(|((topic, event), at_ms)| (topic, event, at_ms)).collect()
    }

    pub fn tell(&self, story: &mut Story, now_ms: i64) {
        for row in &self.logged {
            self.written(row, story, now_ms);
        }
        for row in &self.handled {
            story.steps.push(self.done(row));
            self.without_letter(row, story);
        }
        for row in &self.failing {
            failing(row, story);
        }
        for (event, committed, at_ms) in &self.transactions {
            let word = if *committed { "committed" } else { "rolled back" };
            story.steps.push(Step {
                at_ms: *at_ms,
                took_ms: None,
                source: Source::Transaction,
                who: "payment".to_owned(),
                what: format!("the transaction behind {event} is {word}"),
                event: Some(event.clone()),
                place: None,
            });
        }
    }

    fn written(&self, row: &Logged, story: &mut Story, now_ms: i64) {
        let step = |at_ms, took_ms, what| Step {
            at_ms,
            took_ms,
            source: Source::Outbox,
            who: writer(&row.topic),
            what,
            event: Some(row.event_id.clone()),
            place: None,
        };
        let name = match row.topic.strip_prefix("%DLQ%") {
            Some(_) => format!("writes the dead letter {} of {}", row.event_id, row.topic),
            None => format!("writes {}", row.topic),
        };
        let why = row.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
        let (note, took_ms) = match (row.status, row.sent_at) {
            (Status::Sent, sent_at) => (", sent".to_owned(), sent_at.map(|at| at - row.created_at)),
            (Status::Pending, _) => (", not sent yet".to_owned(), None),
            (Status::Failed, _) => (format!(", given up after {} sends{why}", row.attempts), None),
            (Status::Canceled, _) => (", taken back".to_owned(), None),
        };
        story.steps.push(step(row.created_at, took_ms, format!("{name}{note}")));
        match row.status {
            Status::Pending => {
                let when = match row.next_at {
                    Some(HELD) => "when a broker is there".to_owned(),
                    Some(at) => format!("due {}", rfc3339(at)),
                    None => "without a time".to_owned(),
                };
                let what = format!("{} is not sent: {} failed sends, {when}{why}", row.event_id, row.attempts);
                story.missing.push(step(row.created_at, None, what));
            }
            Status::Failed => {
                let what = format!("{} was given up{why}: `ruyi mq outbox redrive --ids`", row.event_id);
                story.missing.push(step(row.created_at, None, what));
            }
            Status::Sent => self.unhandled(row, story, now_ms),
            Status::Canceled => {}
        }
    }

    /// Groups that should have handled what was sent.
    fn unhandled(&self, row: &Logged, story: &mut Story, now_ms: i64) {
        let Some(kind) = Kind::from_name(&row.topic) else { return };
        let sent_at = row.sent_at.unwrap_or(row.created_at);
        let due_at = row.timer_at.map_or(sent_at, |at| at.max(sent_at));
        if due_at > now_ms {
            return;
        }
        let mut is_handled = true;
        for group in kind.groups() {
            let has = |one: &&Handled| one.group == group.name() && one.event_id == row.event_id;
            if self.handled.iter().find(has).is_some() {
                continue;
            }
            is_handled = false;
            story.missing.push(Step {
                at_ms: due_at,
                took_ms: None,
                source: Source::Inbox,
                who: group.name().to_owned(),
                what: format!("has not handled {}, sent {} ago", row.event_id, span(now_ms - due_at)),
                event: Some(row.event_id.clone()),
                place: None,
            });
        }
        if !is_handled {
            let (event, topic) = (row.event_id.clone(), row.topic.clone());
            story.doubtful.push(Doubtful { event, topic, sent_ms: sent_at });
        }
    }

    fn done(&self, row: &Handled) -> Step {
        let why = row.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        let kind = &row.topic;
        let what = match row.outcome {
            outcome if outcome == inbox::Outcome::Done as i64 => format!("handles {kind}"),
            outcome if outcome == inbox::Outcome::Ignored as i64 => format!("ignores {kind}{why}"),
            outcome if outcome == inbox::Outcome::Parked as i64 => format!("parks {kind}{why}"),
            outcome if outcome == inbox::Outcome::Dead as i64 => format!("gives {kind} up{why}"),
            outcome => format!("has outcome {outcome} for {kind}"),
        };
        let sent = self.logged.iter().find(|one| one.event_id == row.event_id).and_then(|one| one.sent_at);
        Step {
            at_ms: row.at,
            took_ms: sent.map(|sent| row.at - sent).filter(|ms| *ms >= 0),
            source: Source::Inbox,
            who: row.group.clone(),
            what,
            event: Some(row.event_id.clone()),
            place: None,
        }
    }

    /// What was given up is a dead letter, or it is lost.
    fn without_letter(&self, row: &Handled, story: &mut Story) {
        let topic = format!("%DLQ%{}", row.group);
        let has = || self.only.is_some() || self.logged.iter().any(|one| one.topic == topic);
        if row.outcome == inbox::Outcome::Dead as i64 && !has() {
            story.missing.push(Step {
                at_ms: row.at,
                took_ms: None,
                source: Source::Outbox,
                who: row.group.clone(),
                what: format!("has given {} up, but wrote no dead letter", row.event_id),
                event: Some(row.event_id.clone()),
                place: None,
            });
        }
    }
}

fn failing(row: &Failing, story: &mut Story) {
    let step = |at_ms, what| Step {
        at_ms,
        took_ms: None,
        source: Source::Retry,
        who: row.group.clone(),
        what,
        event: Some(row.event_id.clone()),
        place: None,
    };
    story.steps.push(step(row.first_failed_at, format!("fails to handle {}: {}", row.topic, row.last_error)));
    let (topic, attempts) = (&row.topic, row.attempts);
    let end = match row.status {
        status if status == retry::Status::Done as i64 => format!("has {topic} handled after {attempts} failures"),
        status if status == retry::Status::Dead as i64 => format!("gives {topic} up after {attempts} failures"),
        _ => {
            let next = row.next_at.map_or_else(|| "when what is before it is through".to_owned(), rfc3339);
            let what = format!("{} waits after {attempts} failures, next {next}: {}", row.event_id, row.last_error);
            story.missing.push(step(row.first_failed_at, what));
            return;
        }
    };
    story.steps.push(step(row.updated_at, end));
}

/// Who writes to a topic.
fn writer(topic: &str) -> String {
    if let Some(group) = topic.strip_prefix("%DLQ%") {
        return group.to_owned();
    }
    match Kind::from_name(topic).map(Kind::producer) {
        Some(Producer::Role(role)) => role.name().to_owned(),
        _ => "outbox".to_owned(),
    }
}
