//! `ruyi mq broker`: the embedded name server and broker alone, for roles in other processes of this data directory.

use std::process::ExitCode;

use crate::cmd::{Context, WithHelp};
use crate::process::BrokerProcess;
use crate::shutdown::Shutdown;

/// Run the embedded name server and broker until the process is told to stop
///
/// They listen on mq.embedded.host, .namesrv_port and .broker_port, and keep their data under data_dir. Other ruyi
/// processes with the same data_dir find them; others need mq.namesrv.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ruyi mq broker\n  ruyi mq broker --set data_dir=/var/lib/ruyi --set mq.embedded.namesrv_port=9876"
)]
pub struct Args {}

#[derive(serde::Serialize)]
struct Serving {
    namesrv: String,
}

/// Runs the broker.
///
/// # Errors
/// When it does not start.
pub async fn run(context: &Context, _: &Args) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let broker =
        BrokerProcess::start(&context.config).await.help("`ruyi config show` prints the effective settings")?;
    tracing::info!(namesrv = broker.namesrv(), "serving");
    context.output().row(&Serving { namesrv: broker.namesrv() })?;
    shutdown.token.cancelled().await;
    tracing::info!("stopping");
    broker.stop().await;
    Ok(ExitCode::SUCCESS)
}
