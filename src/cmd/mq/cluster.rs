//! The cluster that an operator's command works on.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::cmd::{Context, WithHelp};
use crate::config::Config;
use crate::mq::rocketmq::RocketMq;
use crate::mq::runtime::MqRuntime;
use crate::process;

/// How long the client's threads may take to end.
const STOP: Duration = Duration::from_secs(5);

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster options")]
pub struct Where {
    /// Name servers, host:port;host:port [default: mq.namesrv, else the broker embedded in data_dir]
    #[arg(long, global = true, value_name = "ADDRESSES")]
    pub namesrv: Option<String>,
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
            return Err(error)
                .with_context(|| format!("the cluster at {namesrv} cannot be read"))
                .help("check mq.namesrv (or --namesrv), mq.access_key and mq.secret_key, and that a broker runs");
        }
        Ok(cluster)
    }

    /// Runs `work` on it, and closes it whatever came out.
    ///
    /// # Errors
    /// Those of opening it, and those of `work`.
    pub async fn with(
        context: &Context,
        place: &Where,
        work: impl AsyncFnOnce(&RocketMq) -> anyhow::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        let cluster = Self::open(context, place).await?;
        let done = work(&cluster.mq).await;
        cluster.close().await;
        done
    }

    async fn close(self) {
        self.mq.shutdown().await;
        self.runtime.shutdown(STOP).await;
    }
}
