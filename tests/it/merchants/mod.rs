//! Merchants, and what they are told of their money.

mod news;
mod news_faults;
