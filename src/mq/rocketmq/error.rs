//! Why something did not work on a cluster.

use rocketmq_client_rust::ClientError;

use super::said;

/// Response codes of a broker that takes nothing at the moment.
const SYSTEM_BUSY: i32 = 2;
const SERVICE_NOT_AVAILABLE: i32 = 14;
/// Response code of a broker, and of the client, to a message that is too large or malformed.
const MESSAGE_ILLEGAL: i32 = 13;

/// Why something other than a send failed.
#[derive(Debug, thiserror::Error)]
pub enum MqError {
    /// The process could not start the threads, or the embedded broker its servers.
    #[error("messaging runtime: {0}")]
    Runtime(String),
    /// The configuration contradicts itself.
    #[error("messaging configuration: {0}")]
    Config(String),
    /// The cluster refused or could not be reached.
    #[error("{operation}: {}", said(.source))]
    Client {
        /// What was tried.
        operation: &'static str,
        /// What the client said.
        #[source]
        source: Box<ClientError>,
    },
    /// The cluster does not let us.
    #[error("{operation}: {reason}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// What the cluster said, and what to do.
        reason: String,
    },
    /// The cluster did not answer in time.
    #[error("{operation}: no answer within {timeout_ms} ms")]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// How long it was waited for.
        timeout_ms: u128,
    },
    /// The name servers know no broker.
    #[error("the name servers know no broker")]
    NoBroker,
    /// None of the brokers answers.
    #[error("{operation}: none answers: {brokers}")]
    Silent {
        /// What was tried.
        operation: &'static str,
        /// Names and addresses.
        brokers: String,
    },
}

/// Why a message was not sent. Unless [`PublishError::is_permanent`], sending it again later may work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Larger than `max_message_bytes`.
    #[error("message of {bytes} bytes is over the limit of {max_bytes}")]
    TooLarge {
        /// Body and properties, as encoded.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// RocketMQ can not carry it: its topic, tag, key or a property is malformed.
    #[error("message can not be encoded: {0}")]
    Illegal(String),
    /// The name servers know no queue for the topic.
    #[error("no route to topic {topic}: {reason}")]
    NoRoute {
        /// Topic on the broker.
        topic: String,
        /// What the client said.
        reason: String,
    },
    /// A broker has it, but not as safely as it is configured to (`SendStatus` other than `SEND_OK`).
    #[error("stored without its guarantee: {0}")]
    NotSafe(String),
    /// The broker could not be reached or did not answer in time: the message may be stored all the same.
    #[error("send failed: {0}")]
    Send(String),
    /// The broker answered that it does not take it.
    #[error("the broker refused it ({code}): {reason}")]
    Refused {
        /// RocketMQ's response code.
        code: i32,
        /// What the broker said.
        reason: String,
    },
    /// No broker can be reached: it was not tried.
    #[error("not tried: no broker can be reached")]
    Away,
    /// No broker can be reached: the groups of this process have handled it, and it waits for the brokers.
    #[error("handled here; the brokers will have it when they are back")]
    HandledHere,
    /// No broker can be reached, and a group of this process could not handle it.
    #[error("not handled: {0}")]
    Unhandled(String),
    /// An earlier message for the same queue failed; sending this one would have overtaken it.
    #[error("not tried: an earlier message of the same queue failed")]
    Behind,
    /// There is no broker to keep it back until its time: it has to be sent again then.
    #[error("not sent: it is delayed, and nothing here could keep it back")]
    NotDue {
        /// Its time, epoch ms.
        at_ms: i64,
    },
}

impl PublishError {
    /// True when no later attempt can succeed.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Illegal(_))
    }

    /// True when a smaller message may be taken.
    #[must_use]
    pub const fn is_for_its_size(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { code: MESSAGE_ILLEGAL, .. })
    }

    /// True when it may be that no broker was there to answer.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        matches!(self, Self::Send(_) | Self::NoRoute { .. })
    }

    /// What a broker says that takes no message at the moment, whichever it is.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        matches!(self, Self::Refused { code: SYSTEM_BUSY | SERVICE_NOT_AVAILABLE, .. }).then(|| self.to_string())
    }

    /// True when it says something about the message, so that trying for ever would be wrong. That no broker was there,
    /// or that one was too busy, says nothing about it.
    #[must_use]
    pub const fn counts(&self) -> bool {
        match self {
            Self::TooLarge { .. } | Self::Illegal(_) | Self::NoRoute { .. } | Self::NotSafe(_) => true,
            Self::Refused { code, .. } => !matches!(*code, SYSTEM_BUSY | SERVICE_NOT_AVAILABLE),
            Self::Send(_)
            | Self::Behind
            | Self::Away
            | Self::HandledHere
            | Self::Unhandled(_)
            | Self::NotDue { .. } => false,
        }
    }
}
