//! Alerts: what people should look at. Each is one structured line in the log and, where a webhook is configured, one
//! signed HTTP call, recorded in the transaction that found the reason (see `Tx::alert`). No bodies, no personal data.

use serde::Serialize;

/// So much of an error is told.
const ERROR_CHARS: usize = 300;

/// An alert, as its JSON: `{"alert":"DEAD_LETTER","originalTopic":...}`. Times are epoch ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "alert", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
pub enum Alert {
    /// A group gave a message up: it is in `%DLQ%<consumerGroup>` now, unless the error says that no letter can be written.
    DeadLetter {
        /// Topic that it came from.
        original_topic: String,
        /// Its business key: the order, mostly.
        business_id: String,
        /// How often it was tried again.
        retry_count: i64,
        /// Why it was given up, without quoted values.
        error_message: String,
        /// When.
        alert_time: i64,
        /// Which group.
        consumer_group: String,
        /// Its event id.
        event_id: String,
    },
    /// A message could not be sent, and will not be tried again by itself.
    OutboxGivenUp {
        /// Topic that it was for.
        original_topic: String,
        /// Its business key.
        business_id: String,
        /// How often it was tried.
        retry_count: i64,
        /// Why the last try failed.
        error_message: String,
        /// When.
        alert_time: i64,
        /// Its event id.
        event_id: String,
        /// Its row in `message_record`.
        record_id: String,
    },
    /// An outgoing call was given up: it failed too often, or was refused for good.
    CallGivenUp {
        /// What the call was for.
        kind: String,
        /// Its idempotency key.
        reference: String,
        /// The order that it is about.
        business_id: String,
        /// Host and port.
        target: String,
        /// How often it was tried.
        retry_count: i64,
        /// Why the last try failed.
        error_message: String,
        /// When.
        alert_time: i64,
        /// Its row in `delivery`: `ruyi delivery show`.
        delivery_id: String,
    },
    /// A row that a walk cannot move was set aside, and the others go on.
    SetAside {
        /// Which walk.
        walk: String,
        /// Table of the row.
        table: String,
        /// Its key there.
        row: String,
        /// Its business key: the order, mostly; empty where it is not known.
        business_id: String,
        /// Why it cannot be moved, without quoted values.
        error_message: String,
        /// When.
        alert_time: i64,
        /// When it is tried again; none: not by itself.
        again_at: Option<i64>,
    },
    /// A channel has signed that it has money which fits no payment here, and was not taken.
    MoneyNotTaken {
        /// Channel.
        channel_id: String,
        /// Payment that it names; empty where what it says cannot be read.
        payment_id: String,
        /// Its number of the transaction.
        transaction_no: String,
        /// Amount and currency.
        amount: String,
        /// Why it was not taken.
        error_message: String,
        /// When.
        alert_time: i64,
    },
    /// A group has more messages before it than it should.
    Backlog {
        /// Which group.
        consumer_group: String,
        /// Messages that it has not consumed.
        lag: i64,
        /// How many it may have.
        threshold: i64,
        /// Instances that should consume.
        wanted: i64,
        /// When.
        alert_time: i64,
    },
}

impl Alert {
    /// Writes it to the log, as one line.
    pub fn log(&self) {
        match self {
            Self::DeadLetter {
                original_topic,
                business_id,
                retry_count,
                error_message,
                alert_time,
                consumer_group,
                event_id,
            } => tracing::error!(
                alert = "DEAD_LETTER",
                original_topic,
                business_id,
                retry_count,
                error_message,
                alert_time,
                consumer_group,
                event_id,
                "a message was given up"
            ),
            Self::OutboxGivenUp {
                original_topic,
                business_id,
                retry_count,
                error_message,
                alert_time,
                event_id,
                record_id,
            } => tracing::error!(
                alert = "OUTBOX_GIVEN_UP",
                original_topic,
                business_id,
                retry_count,
                error_message,
                alert_time,
                event_id,
                record_id,
                "a message could not be sent"
            ),
            Self::CallGivenUp {
                kind,
                reference,
                business_id,
                target,
                retry_count,
                error_message,
                alert_time,
                delivery_id,
            } => tracing::error!(
                alert = "CALL_GIVEN_UP",
                kind,
                reference,
                business_id,
                target,
                retry_count,
                error_message,
                alert_time,
                delivery_id,
                "an outgoing call was given up"
            ),
            Self::SetAside { walk, table, row, business_id, error_message, alert_time, again_at } => tracing::error!(
                alert = "SET_ASIDE",
                walk,
                table,
                row,
                business_id,
                error_message,
                alert_time,
                again_at,
                "a row that cannot be moved was set aside"
            ),
            Self::MoneyNotTaken { channel_id, payment_id, transaction_no, amount, error_message, alert_time } => {
                tracing::error!(
                    alert = "MONEY_NOT_TAKEN",
                    channel_id,
                    payment_id,
                    transaction_no,
                    amount,
                    error_message,
                    alert_time,
                    "a channel has money that fits no payment"
                );
            }
            Self::Backlog { consumer_group, lag, threshold, wanted, alert_time } => {
                tracing::error!(
                    alert = "BACKLOG",
                    consumer_group,
                    lag,
                    threshold,
                    wanted,
                    alert_time,
                    "a group falls behind"
                );
            }
        }
    }

    /// The order that it is about; 0 where it is about none.
    #[must_use]
    pub fn order_id(&self) -> i64 {
        match self {
            Self::DeadLetter { business_id, .. }
            | Self::OutboxGivenUp { business_id, .. }
            | Self::CallGivenUp { business_id, .. }
            | Self::SetAside { business_id, .. } => business_id.parse().unwrap_or(0),
            Self::MoneyNotTaken { .. } | Self::Backlog { .. } => 0,
        }
    }
}

/// An error fit to be told: texts of parsers quote the value that they stumbled over, which may be anything.
#[must_use]
pub fn without_values(error: &str) -> String {
    let mut told = String::new();
    for (index, part) in error.split('"').enumerate() {
        told.push_str(match index % 2 {
            0 => part,
            _ => "...",
        });
    }
    told.chars().take(ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_without_the_values_that_they_quote() {
        assert_eq!(without_values("no stock"), "no stock");
        assert_eq!(
            without_values(r#"invalid type: string "13800138000", expected i64"#),
            "invalid type: string ..., expected i64"
        );
        assert_eq!(without_values(r#"unclosed "13800138000"#), "unclosed ...");
        assert_eq!(without_values(&"é".repeat(900)).chars().count(), ERROR_CHARS);
    }

    #[test]
    fn the_json_has_the_names_that_others_read() {
        let alert =
            Alert::Backlog { consumer_group: "g".to_owned(), lag: 20_000, threshold: 10_000, wanted: 4, alert_time: 5 };
        let json = serde_json::to_string(&alert).unwrap();
        let wanted =
            r#"{"alert":"BACKLOG","consumerGroup":"g","lag":20000,"threshold":10000,"wanted":4,"alertTime":5}"#;
        assert_eq!(json, wanted);
    }
}
