//! `ruyi mq dlq`.

mod commands;
mod edit;
mod java;
mod replay;
