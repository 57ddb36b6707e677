//! Payments and refunds: channels, the gateway of merchants, statements.

mod at_once;
mod channel_faults;
mod channel_query;
mod channel_query_again;
mod every_kind;
mod gateway;
mod other_method;
mod refund_doubt;
mod refunds;
mod statement;
mod transaction_numbers;
mod untaken_money;
mod whose_channel;
