//! `ruyi mq dlq`.

mod commands;
mod edit;
mod java;
mod left_behind;
mod picked;
mod pop;
mod replay;
