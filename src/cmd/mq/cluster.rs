//! The cluster that an operator's command works on.

use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::cmd::{Context, WithHelp};
use crate::config::{Config, is_host_port};
use crate::mq::rocketmq::RocketMq;
use crate::mq::runtime::MqRuntime;
use crate::process;

/// How long the client's threads may take to end.
const STOP: Duration = Duration::from_secs(5);

/// RocketMQ's answer to a request that the server does not serve.
const NOT_SUPPORTED: i32 = 3;

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster options")]
pub struct Where {
    /// Name servers, host:port;host:port [default: mq.namesrv, else the broker embedded in data_dir]
    #[arg(long, global = true, value_name = "ADDRESSES", value_parser = addresses)]
    pub namesrv: Option<String>,
}

fn addresses(text: &str) -> Result<String, String> {
    match text.split(';').map(str::trim).find(|addr| !is_host_port(addr)) {
        Some(bad) => Err(format!("{bad:?} is not host:port")),
        None => Ok(text.to_owned()),
    }
}

impl Where {
    /// The configuration with what the options say.
    #[must_use]
    pub fn applied_to(&self, config: &Config) -> Config {
        let mut config = config.clone();
        if let Some(namesrv) = &self.namesrv {
            config.mq.namesrv.clone_from(namesrv);
        }
        config
    }
}

/// A connection to it.
pub struct Cluster {
    /// The client.
    pub mq: RocketMq,
    runtime: MqRuntime,
}

impl Cluster {
    /// Connects, and asks for the brokers, so that what follows can rely on them.
    ///
    /// # Errors
    /// No name server answers, none knows a broker, or the keys are refused.
    pub async fn open(context: &Context, place: &Where) -> anyhow::Result<Self> {
        let settings = process::cluster_config(&place.applied_to(&context.config))?;
        let namesrv = settings.namesrv.clone();
        let runtime = MqRuntime::start("ruyi-mq")?;
        let mq = RocketMq::connect(settings, &runtime).await?;
        let cluster = Self { mq, runtime };
        if let Err(error) = cluster.mq.brokers().await {
            cluster.close().await;
            // Only name servers know the brokers: whoever else speaks the protocol does not know the question.
            let help = if error.code() == Some(NOT_SUPPORTED) {
                "what answers there is no name server: a broker (10911) and the remoting port of a proxy (8080) do not \
                 know this question; name servers listen on 9876, and mq.namesrv (or --namesrv) names them"
            } else {
                "check mq.namesrv (or --namesrv), mq.access_key and mq.secret_key, and that a broker runs"
            };
            return Err(error).with_context(|| format!("the cluster at {namesrv} cannot be read")).help(help);
        }
        Ok(cluster)
    }

    /// Runs `work` on it, and closes it whatever came out. A broker of mq.brokers that the name servers have forgotten
    /// is told, and makes the exit code 1: `work` knows nothing of what it has.
    ///
    /// # Errors
    /// Those of opening it, and those of `work`.
    pub async fn with(
        context: &Context,
        place: &Where,
        work: impl AsyncFnOnce(&RocketMq) -> anyhow::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        let cluster = Self::open(context, place).await?;
        let done = cluster.tell_missing(work).await;
        cluster.close().await;
        done
    }

    async fn tell_missing(
        &self,
        work: impl AsyncFnOnce(&RocketMq) -> anyhow::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        let missing = self.mq.missing_brokers().await?;
        for name in &missing {
            writeln!(stderr(), "broker {name} is known to no name server: what it has is missing here")?;
        }
        let code = work(&self.mq).await?;
        Ok(if missing.is_empty() { code } else { ExitCode::FAILURE })
    }

    async fn close(self) {
        self.mq.shutdown().await;
        self.runtime.shutdown(STOP).await;
    }
}
