//! What the program promises: its API, command line, configuration, documents and sources.

mod bad_input;
mod catalogue;
mod cli;
mod client;
mod client_failover;
mod commands;
mod config;
mod docs;
mod exposed;
mod help_and_man;
mod http;
mod layers;
mod repeated_requests;
mod scopes;
mod settings_read;
mod supply_chain;
mod test_servers;
