//! `ruyi mq dlq`.

mod commands;
mod edit;
mod java;
mod picked;
mod pop;
mod replay;
