//! `ruyi serve`: long-running roles.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Context, WithHelp};
use crate::domain::event::Role;
use crate::fault::Faults;
use crate::process::{Plan, Process, Work};

/// Run roles until the process is told to stop
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Which,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Which {
    /// Every role, with the embedded broker where no other is configured
    #[command(
        after_help = "Examples:\n  ruyi serve all\n  ruyi serve all --listen 127.0.0.1:0 --set data_dir=/var/lib/ruyi"
    )]
    All(Listen),
    /// Orders and their fulfilment
    #[command(
        after_help = "Examples:\n  ruyi serve order\n  ruyi serve order --config /etc/ruyi.toml --listen 0.0.0.0:8080"
    )]
    Order(Listen),
    /// Payments and refunds
    #[command(
        after_help = "Examples:\n  ruyi serve payment\n  ruyi serve payment --config /etc/ruyi.toml --listen 0.0.0.0:8080"
    )]
    Payment(Listen),
    /// Stock
    #[command(
        after_help = "Examples:\n  ruyi serve stock\n  ruyi serve stock --config /etc/ruyi.toml --listen 0.0.0.0:8080"
    )]
    Stock(Listen),
    /// Points and messages to users
    #[command(
        after_help = "Examples:\n  ruyi serve notify\n  ruyi serve notify --config /etc/ruyi.toml --listen 0.0.0.0:8080"
    )]
    Notify(Listen),
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Listen {
    /// Listen address instead of the configured one; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<std::net::SocketAddr>,
}

/// Runs the roles.
///
/// # Errors
/// When they do not start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let http = &context.config.http;
    let (roles, configured, asked) = match args.role {
        Which::All(listen) => (Role::ALL.to_vec(), http.all, listen),
        Which::Order(listen) => (vec![Role::Order], http.order, listen),
        Which::Payment(listen) => (vec![Role::Payment], http.payment, listen),
        Which::Stock(listen) => (vec![Role::Stock], http.stock, listen),
        Which::Notify(listen) => (vec![Role::Notify], http.notify, listen),
    };
    let listen = asked.listen.unwrap_or(configured);
    let plan = Plan {
        faults: Faults::from_env(),
        clock: context.clock.clone(),
        ..Plan::new(&roles, Work::SERVE, Some(listen))
    };
    let process =
        Process::start(&context.config, plan).await.help("`ruyi config show` prints the effective settings")?;
    process.shutdown().on_signals()?;
    tracing::info!(url = process.base_url(), broker = process.namesrv().unwrap_or("none"), "serving");
    // Where port 0 was asked for, scripts read the address here.
    context.output().row(&Serving { url: process.base_url(), namesrv: process.namesrv() })?;
    process.shutdown().token.cancelled().await;
    tracing::info!("stopping");
    Ok(if process.stop().await.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(serde::Serialize)]
struct Serving<'a> {
    url: &'a str,
    namesrv: Option<&'a str>,
}
