//! Orders: their life, their hand-over to the warehouse, their search.

mod flow;
mod fulfilment;
mod late_news;
mod nothing_left;
mod pay_timeout;
mod search;
