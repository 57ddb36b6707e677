//! `contact`: where users are reached. No other table holds a phone number or an e-mail address.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::{DbError, Tx};
use crate::domain::notice::{Language, QuietHours, Topic, Way};
use crate::vals;

/// Where a user is reached, and how the user wants it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Whose.
    pub user_id: i64,
    /// E.164.
    pub phone: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// None: the language of `notices.language`.
    pub language: Option<Language>,
    /// Topics without text messages.
    pub sms_off: BTreeSet<Topic>,
    /// Topics without e-mails.
    pub email_off: BTreeSet<Topic>,
    /// When no text message is to come.
    pub quiet: Option<QuietHours>,
}

/// Without number and address: they must not get into a log.
impl fmt::Debug for Contact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Contact").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl Contact {
    /// Whether the user wants messages about `topic` by `way`.
    #[must_use]
    pub fn wants(&self, way: Way, topic: Topic) -> bool {
        !match way {
            Way::Sms => &self.sms_off,
            Way::Email => &self.email_off,
        }
        .contains(&topic)
    }
}

fn names(topics: &BTreeSet<Topic>) -> String {
    topics.iter().map(|topic| topic.name()).collect::<Vec<_>>().join(",")
}

fn topics(text: &str) -> BTreeSet<Topic> {
    text.split(',').filter_map(Topic::from_name).collect()
}

/// Writes a contact, in the place of the one before.
///
/// # Errors
/// The database's.
pub async fn put(tx: &mut Tx, contact: &Contact) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let quiet = contact.quiet.as_ref();
    let row = vals![
        contact.user_id,
        contact.phone.as_deref(),
        contact.email.as_deref(),
        contact.language.map(Language::name),
        names(&contact.sms_off),
        names(&contact.email_off),
        quiet.map(|quiet| quiet.from),
        quiet.map(|quiet| quiet.to),
        quiet.map(|quiet| quiet.time_zone.as_str()),
        now_ms,
        now_ms,
    ];
    let set =
        ["phone", "email", "language", "sms_off", "email_off", "quiet_from", "quiet_to", "time_zone", "updated_at"];
    let tail = tx.dialect().on_conflict("user_id", &set, &[]);
    let head = "INSERT INTO contact (user_id, phone, email, language, sms_off, email_off, quiet_from, quiet_to, \
                time_zone, created_at, updated_at)";
    sql::insert(tx, head, vec![row], &tail).await.map(|_| ())
}

/// The contacts of these users, as far as they have one.
///
/// # Errors
/// The database's.
pub async fn of_users(conn: &mut AnyConnection, mut user_ids: Vec<i64>) -> Result<HashMap<i64, Contact>, DbError> {
    user_ids.sort_unstable();
    user_ids.dedup();
    let text = "SELECT user_id, phone, email, language, sms_off, email_off, quiet_from, quiet_to, time_zone \
                FROM contact WHERE user_id";
    let rows = sql::select_in(conn, text, "", &[], user_ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| contact(row).map(|contact| (contact.user_id, contact))).collect()
}

/// The contact of a user.
///
/// # Errors
/// The database's.
pub async fn of_user(conn: &mut AnyConnection, user_id: i64) -> Result<Option<Contact>, DbError> {
    Ok(of_users(conn, vec![user_id]).await?.remove(&user_id))
}

fn contact(row: &AnyRow) -> Result<Contact, DbError> {
    let quiet = match (row.maybe_int(6)?, row.maybe_int(7)?, row.maybe_text(8)?) {
        (Some(from), Some(to), Some(time_zone)) => Some(QuietHours { from, to, time_zone }),
        _ => None,
    };
    Ok(Contact {
        user_id: row.int(0)?,
        phone: row.maybe_text(1)?,
        email: row.maybe_text(2)?,
        language: row.maybe_text(3)?.and_then(|name| Language::from_name(&name)),
        sms_off: topics(&row.text(4)?),
        email_off: topics(&row.text(5)?),
        quiet,
    })
}
