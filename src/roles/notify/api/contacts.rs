//! Where users are reached, and how they want it.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, Query, State as Extract};
use axum::{Extension, Json};
use jiff::tz::TimeZone;
use lettre::Address;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::config::Scope;
use crate::db::Db;
use crate::db::contacts::{self, Contact};
use crate::domain::id::UserId;
use crate::domain::notice::{Language, QuietHours, Topic, is_e164, minute_of, minute_text};
use crate::http::{ApiJson, Caller, Problem};
use crate::roles::reply::{self, from_db};

/// Longest address that SMTP knows (RFC 5321, 4.5.3.1.3, less the brackets).
const EMAIL_MAX: usize = 254;

/// When no SMS is to come; e-mails make no noise.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QuietView {
    /// HH:MM.
    #[schema(example = "22:00")]
    from: String,
    /// HH:MM, on the next day where it is not after `from`.
    #[schema(example = "08:00")]
    to: String,
    /// IANA time zone of both.
    #[schema(example = "Asia/Shanghai")]
    time_zone: String,
}

/// A contact as it is to be; what is left out is not there, and topics that are not named are on.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContactBody {
    /// E.164.
    #[schema(example = "+8613800138000")]
    phone: Option<String>,
    /// ASCII; a name in another script as punycode.
    email: Option<String>,
    /// None: that of the shop.
    language: Option<Language>,
    /// Topics (ORDER, PARCEL, REFUND, OTHER) that SMS are sent about.
    #[serde(default)]
    sms: BTreeMap<Topic, bool>,
    /// Topics that e-mails are sent about.
    #[serde(default)]
    email_topics: BTreeMap<Topic, bool>,
    /// None: SMS may come at any time.
    quiet_hours: Option<QuietView>,
}

/// A contact; number and address are masked.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContactView {
    /// Whose.
    #[schema(value_type = String)]
    user_id: UserId,
    /// E.164.
    phone: Option<String>,
    /// E-mail address.
    email: Option<String>,
    /// None: that of the shop.
    language: Option<Language>,
    /// Topics that SMS are sent about.
    sms: BTreeMap<Topic, bool>,
    /// Topics that e-mails are sent about.
    email_topics: BTreeMap<Topic, bool>,
    /// None: SMS may come at any time.
    quiet_hours: Option<QuietView>,
}

/// How a contact is to be shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    /// True: number and address in full, for keys with the scope admin.
    #[serde(default)]
    full: bool,
}

fn switches(off: &BTreeSet<Topic>) -> BTreeMap<Topic, bool> {
    Topic::ALL.into_iter().map(|topic| (topic, !off.contains(&topic))).collect()
}

fn off(switches: &BTreeMap<Topic, bool>) -> BTreeSet<Topic> {
    switches.iter().filter(|(_, on)| !**on).map(|(topic, _)| *topic).collect()
}

/// `+86*********00`, `b***@example.com`.
fn masked(text: &str) -> String {
    match text.split_once('@') {
        Some((name, host)) => format!("{}***@{host}", name.chars().next().unwrap_or('*')),
        None => {
            let hidden = text.len().saturating_sub(5);
            let (head, tail) = (text.get(..3).unwrap_or_default(), text.get(3 + hidden..).unwrap_or_default());
            format!("{head}{}{tail}", "*".repeat(hidden))
        }
    }
}

fn view(contact: Contact, full: bool) -> Json<ContactView> {
    let shown = |text: Option<String>| text.map(|text| if full { text } else { masked(&text) });
    Json(ContactView {
        user_id: UserId(contact.user_id),
        phone: shown(contact.phone),
        email: shown(contact.email),
        language: contact.language,
        sms: switches(&contact.sms_off),
        email_topics: switches(&contact.email_off),
        quiet_hours: contact.quiet.map(|quiet| QuietView {
            from: minute_text(quiet.from),
            to: minute_text(quiet.to),
            time_zone: quiet.time_zone,
        }),
    })
}

/// Without what was sent: problems may be logged by whoever gets them.
fn wrong(field: &str, detail: &str) -> Problem {
    Problem::invalid(format!("{field} {detail}")).field(field, detail)
}

fn quiet(body: QuietView) -> Result<QuietHours, Problem> {
    let minute = |field, text: &str| minute_of(text).ok_or_else(|| wrong(field, "must be HH:MM, 00:00 to 23:59"));
    let (from, to) = (minute("quietHours.from", &body.from)?, minute("quietHours.to", &body.to)?);
    if from == to {
        return Err(wrong("quietHours.to", "must not be the same as from"));
    }
    if body.time_zone.len() > 64 || TimeZone::get(&body.time_zone).is_err() {
        return Err(wrong("quietHours.timeZone", "must be the IANA name of a time zone, like Asia/Shanghai"));
    }
    Ok(QuietHours { from, to, time_zone: body.time_zone })
}

fn contact(user_id: UserId, body: ContactBody) -> Result<Contact, Problem> {
    if body.phone.as_deref().is_some_and(|phone| !is_e164(phone)) {
        return Err(wrong("phone", "must be in the form of E.164, like +8613800138000"));
    }
    let fine = |email: &str| email.is_ascii() && email.len() <= EMAIL_MAX && email.parse::<Address>().is_ok();
    if body.email.as_deref().is_some_and(|email| !fine(email)) {
        return Err(wrong("email", "must be an e-mail address in ASCII of at most 254 characters"));
    }
    Ok(Contact {
        user_id: user_id.0,
        phone: body.phone,
        email: body.email,
        language: body.language,
        sms_off: off(&body.sms),
        email_off: off(&body.email_topics),
        quiet: body.quiet_hours.map(quiet).transpose()?,
    })
}

/// Read where a user is reached.
///
/// Number and address are masked, unless a key with the scope admin asks for `full=true`.
#[utoipa::path(get, path = "/contacts/{userId}", tag = "notify", params(("userId" = String, Path, description = "User id"), ShowQuery),
    responses((status = 200, body = ContactView), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn get(
    Extract(db): Extract<Db>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<ContactView>, Problem> {
    let user_id: UserId = reply::path("userId", &id)?;
    if query.full && !caller.may(Scope::Admin) {
        return Err(Problem::forbidden("full=true needs an API key with the scope admin"));
    }
    let mut conn = db.read().await.map_err(|error| from_db(&error))?;
    let found = contacts::of_user(&mut conn, user_id.0).await.map_err(|error| from_db(&error))?;
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no contact of user {user_id}")))?;
    Ok(view(found, query.full))
}

/// Set where a user is reached, and what about.
///
/// It takes the place of what was there before; `{}` forgets number and address. They are looked up when a message is sent,
/// and are in no message and no log.
#[utoipa::path(put, path = "/contacts/{userId}", tag = "notify", request_body = ContactBody,
    params(("userId" = String, Path, description = "User id")),
    responses((status = 200, body = ContactView), (status = 422, body = Problem)))]
pub(super) async fn put(
    Extract(db): Extract<Db>,
    Path(id): Path<String>,
    ApiJson(body): ApiJson<ContactBody>,
) -> Result<Json<ContactView>, Problem> {
    let user_id: UserId = reply::path("userId", &id)?;
    let contact = contact(user_id, body)?;
    let row = contact.clone();
    let written = db.write("contact_set", move |tx| {
        let row = row.clone();
        Box::pin(async move { contacts::put(tx, &row).await })
    });
    written.await.map_err(|error| from_db(&error))?;
    Ok(view(contact, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_shown() {
        assert_eq!(masked("+8613800138000"), "+86*********00");
        assert_eq!(masked("+4712345"), "+47***45");
        assert_eq!(masked("bob@example.com"), "b***@example.com");
    }
}
