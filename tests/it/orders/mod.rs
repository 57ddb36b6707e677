//! Orders: their life, their hand-over to the warehouse, their search.

mod flow;
mod fulfilment;
mod pay_timeout;
mod search;
