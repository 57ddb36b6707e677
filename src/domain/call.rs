//! Kinds of outgoing calls.

use super::event::Role;

/// What an outgoing call is for (`delivery.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A payment to its channel.
    ChannelSubmit = 1,
    /// A refund to its channel.
    ChannelRefund = 2,
    /// An order to the warehouse.
    Warehouse = 3,
    /// The sandbox channel's call back to us.
    SandboxPayment = 4,
    /// The sandbox warehouse's call back to us.
    SandboxFulfilment = 5,
    /// An alert to whoever watches.
    Alert = 6,
    /// What became of an order, to its merchant.
    Merchant = 7,
    /// A text message to a user, to the provider.
    Sms = 8,
    /// An e-mail to a user, to the mail server.
    Email = 9,
    /// What became of a payment whose callback stays away, of its channel.
    ChannelQuery = 10,
    /// What became of a refund that is in doubt, of its channel.
    RefundQuery = 11,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::ChannelSubmit,
        Self::ChannelRefund,
        Self::Warehouse,
        Self::SandboxPayment,
        Self::SandboxFulfilment,
        Self::Alert,
        Self::Merchant,
        Self::Sms,
        Self::Email,
        Self::ChannelQuery,
        Self::RefundQuery,
    ];

    /// For people and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelSubmit => "channel_submit",
            Self::ChannelRefund => "channel_refund",
            Self::Warehouse => "warehouse",
            Self::SandboxPayment => "sandbox_payment",
            Self::SandboxFulfilment => "sandbox_fulfilment",
            Self::Alert => "alert",
            Self::Merchant => "merchant",
            Self::Sms => "sms",
            Self::Email => "email",
            Self::ChannelQuery => "channel_query",
            Self::RefundQuery => "refund_query",
        }
    }

    /// From the stored code.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == code)
    }

    /// The role that makes it; none: whoever finds a reason for an alert.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Warehouse | Self::SandboxFulfilment => Some(Role::Order),
            Self::ChannelSubmit
            | Self::ChannelRefund
            | Self::ChannelQuery
            | Self::RefundQuery
            | Self::SandboxPayment => Some(Role::Payment),
            Self::Merchant | Self::Sms | Self::Email => Some(Role::Notify),
            Self::Alert => None,
        }
    }

    /// Where a channel takes calls of this kind, below its endpoint; none: it is no call to a channel. The body of a
    /// call to a channel names it.
    #[must_use]
    pub fn channel_path(self) -> Option<&'static str> {
        match self {
            Self::ChannelSubmit => Some("pay"),
            Self::ChannelRefund => Some("refund"),
            Self::ChannelQuery | Self::RefundQuery => Some("query"),
            Self::Warehouse
            | Self::SandboxPayment
            | Self::SandboxFulfilment
            | Self::Alert
            | Self::Merchant
            | Self::Sms
            | Self::Email => None,
        }
    }

    /// A refund that the channel refused may have been asked for anew, and one that is under way may be paid: neither is
    /// changed by hand, or money could go back twice. One that is in doubt can be sent again: nobody else asked.
    #[must_use]
    pub fn is_refund(self) -> bool {
        self == Self::ChannelRefund
    }

    /// Its row says what was done about money or goods, so it is kept for good. The others only told somebody something.
    #[must_use]
    pub fn is_proof(self) -> bool {
        matches!(self, Self::ChannelSubmit | Self::ChannelRefund | Self::RefundQuery | Self::Warehouse)
    }

    /// Its address comes from a user: it may lead to the public internet only.
    #[must_use]
    pub fn is_guarded(self) -> bool {
        self == Self::Merchant
    }

    /// ruyi's own stand-in calls back: what fails there is part of a test.
    #[must_use]
    pub fn is_sandbox(self) -> bool {
        matches!(self, Self::SandboxPayment | Self::SandboxFulfilment)
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The calls of this kind about one order are made in the order in which they were recorded: the next one only
    /// when the one before has been settled.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        self == Self::Merchant
    }
}
