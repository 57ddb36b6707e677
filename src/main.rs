//! Parse, load the configuration, start telemetry, dispatch.
#![recursion_limit = "512"]

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use ruyi::cmd::{self, Cli};
use ruyi::{db, mq, telemetry};

fn main() -> ExitCode {
    let cli = Cli::of_process();
    let plugin = cli.plugin();
    let done = start(cli);
    match plugin {
        Some(plugin) => plugin.conclude(done),
        None => cmd::conclude(done),
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(done) = cli.run_alone() {
        return done;
    }
    let config = cli.load_config()?;
    let noisy = [mq::rocketmq::NOISY_TARGETS, db::NOISY_TARGETS].concat();
    telemetry::init(&config.log, cli.verbosity(), &noisy)?;
    let runtime = runtime().context("cannot start the async runtime")?;
    runtime.block_on(cli.run(config))
}

/// The one place where the runtime is made.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
