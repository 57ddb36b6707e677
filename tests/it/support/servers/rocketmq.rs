//! Apache RocketMQ: one shared broker for tests that only use it, and clusters for those that break them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::OnceCell;

use super::child::{ChildProcess, free_port, free_ports};
use super::jars::Jars;
use super::remoting::ask;
use super::shared;

/// The longest that RocketMQ's own tool is run again.
const MQADMIN_DEADLINE: Duration = Duration::from_secs(120);

/// Of every broker: files that are small enough to have dozens, timers, and no refusal only because the machine is busy.
/// Each flush of the timers walks over their whole wheel of 38 MB: every second, that is a tenth of a processor. Until
/// the first flush of the counters of transactions, 10 s after the start unless it is told otherwise, a thread spins.
const BROKER_CONF: &str = "\
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType=ASYNC_FLUSH
brokerIP1=127.0.0.1
autoCreateTopicEnable=true
autoCreateSubscriptionGroup=true
defaultTopicQueueNums=4
timerWheelEnable=true
mappedFileSizeCommitLog=67108864
mappedFileSizeConsumeQueue=600000
mappedFileSizeTimerLog=10240000
maxHashSlotNum=100000
maxIndexNum=400000
diskMaxUsedSpaceRatio=95
waitTimeMillsInSendQueue=60000
osPageCacheBusyTimeOutMills=10000
registerNameServerPeriod=10000
flushConsumerOffsetInterval=1000
timerFlushIntervalMs=30000
transactionMetricFlushInterval=300
";

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Names of the brokers; all are masters.
    pub brokers: Vec<String>,
    /// How many name servers.
    pub namesrvs: usize,
    /// Further lines for each broker.conf; the last one of a name counts.
    pub broker_conf: String,
    /// Further lines for each namesrv.conf.
    pub namesrv_conf: String,
    /// Further options of each Java process (`-Dtls.server.mode=enforcing`).
    pub java: Vec<String>,
}

impl Default for ClusterPlan {
    /// Broker a and one name server.
    fn default() -> Self {
        Self {
            brokers: vec![String::from("a")],
            namesrvs: 1,
            broker_conf: String::new(),
            namesrv_conf: String::new(),
            java: Vec::new(),
        }
    }
}

impl ClusterPlan {
    /// Two brokers, a and b, and two name servers.
    pub fn pair() -> Self {
        Self { brokers: vec![String::from("a"), String::from("b")], namesrvs: 2, ..Self::default() }
    }

    /// With further lines in each broker.conf.
    pub fn broker_conf(mut self, lines: &str) -> Self {
        self.broker_conf.push_str(lines);
        self
    }
}

struct Broker {
    name: String,
    port: u16,
    server: ChildProcess,
}

/// Name servers and brokers of one test.
pub struct Cluster {
    /// Its `brokerClusterName`.
    pub name: String,
    jars: Jars,
    namesrvs: Vec<(u16, ChildProcess)>,
    brokers: Vec<Broker>,
}

impl Cluster {
    /// Starts all of it, and waits until the brokers take messages; `None` where the jars are missing.
    pub async fn start(plan: ClusterPlan) -> Option<Self> {
        let jars = Jars::find()?;
        let name = String::from("ruyi-test");
        let mut namesrvs = Vec::new();
        for _ in 0..plan.namesrvs {
            let port = free_port();
            let dir = tempfile::tempdir().unwrap().keep();
            let conf = format!("listenPort={port}\n{}", plan.namesrv_conf);
            let main = "org.apache.rocketmq.namesrv.NamesrvStartup";
            let memory = ["-Xms64m", "-Xmx256m"];
            namesrvs.push((port, start_java("name server", &jars, dir, &memory, &plan.java, main, &conf)));
        }
        for (port, server) in &namesrvs {
            server.until_listening(*port).await;
        }
        let mut cluster = Self { name, jars, namesrvs, brokers: Vec::new() };
        for broker in &plan.brokers {
            // It also listens two below for some clients, and one above for its replicas.
            let port = free_ports(4) + 2;
            let dir = tempfile::tempdir().unwrap().keep();
            let conf = cluster.broker_conf(broker, port, &dir, &plan);
            let main = "org.apache.rocketmq.broker.BrokerStartup";
            let memory = ["-Xms128m", "-Xmx512m", "-XX:MaxDirectMemorySize=256m"];
            let server = start_java(broker, &cluster.jars, dir, &memory, &plan.java, main, &conf);
            cluster.brokers.push(Broker { name: broker.clone(), port, server });
        }
        for broker in &cluster.brokers {
            broker.up(1).await;
            cluster.until_announced(broker).await;
        }
        Some(cluster)
    }

    fn broker_conf(&self, broker: &str, port: u16, dir: &Path, plan: &ClusterPlan) -> String {
        let mut conf = String::from(BROKER_CONF);
        let (cluster, namesrv, dir) = (&self.name, self.namesrv(), dir.display());
        writeln!(conf, "brokerClusterName={cluster}\nbrokerName={broker}\nnamesrvAddr={namesrv}").unwrap();
        writeln!(conf, "listenPort={port}\nhaListenPort={}", port + 1).unwrap();
        writeln!(conf, "storePathRootDir={dir}/store\nstorePathCommitLog={dir}/store/commitlog").unwrap();
        conf.push_str(&plan.broker_conf);
        conf
    }

    /// For `mq.namesrv`.
    pub fn namesrv(&self) -> String {
        let all: Vec<_> = self.namesrvs.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        all.join(";")
    }

    fn broker(&self, name: &str) -> &Broker {
        self.brokers.iter().find(|broker| broker.name == name).expect("a broker of the plan")
    }

    /// `host:port` of a broker.
    pub fn broker_addr(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.broker(name).port)
    }

    /// `kill -9`. What it had acknowledged is there when it comes back.
    pub fn kill_broker(&self, name: &str) {
        self.broker(name).server.kill();
    }

    /// It hangs from now on: it keeps its connections, and the name servers believe in it for two minutes.
    pub fn freeze_broker(&self, name: &str) {
        self.broker(name).server.signal("STOP");
    }

    /// A frozen broker goes on.
    pub fn thaw_broker(&self, name: &str) {
        self.broker(name).server.signal("CONT");
    }

    /// An orderly stop, which takes seconds.
    pub fn stop_broker(&self, name: &str) {
        self.broker(name).server.stop_with("TERM");
    }

    /// A killed or stopped broker again, on its data and port; waits until it takes messages.
    pub async fn start_broker(&self, name: &str) {
        let broker = self.broker(name);
        let starts = broker.starts();
        broker.server.start_again();
        broker.up(starts + 1).await;
        self.until_announced(broker).await;
    }

    /// Waits until the name servers know `broker`: on a busy machine its first word to them may get lost, and the next
    /// one comes some seconds after it says that it has started.
    async fn until_announced(&self, broker: &Broker) {
        let addr = format!("127.0.0.1:{}", broker.port);
        for (port, _) in &self.namesrvs {
            broker.server.until(async || named_by(*port).await.is_none_or(|known| known.contains(&addr))).await;
        }
    }

    /// `kill -9` of the name server at `index`.
    pub fn kill_namesrv(&self, index: usize) {
        self.namesrvs[index].1.kill();
    }

    /// The name server at `index` again; brokers tell it about themselves within 10 s.
    pub async fn start_namesrv(&self, index: usize) {
        let (port, server) = &self.namesrvs[index];
        server.start_again();
        server.until_listening(*port).await;
    }

    /// Runs RocketMQ's own tool (`mqadmin`) with `args` and the name servers of this cluster; returns what it printed.
    /// It says that it succeeded whatever happened, a stack trace apart: it gives a busy broker 3 s, and is run again.
    pub async fn mqadmin(&self, args: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let home = format!("-Duser.home={}", self.namesrvs[0].1.dir().display());
            let java = self.jars.java(["-Xmx256m", &home], None);
            let mut command = tokio::process::Command::new(&java[0]);
            command.args(&java[1..]).arg("org.apache.rocketmq.tools.command.MQAdminStartup");
            command.args(args).env("NAMESRV_ADDR", self.namesrv()).stdin(Stdio::null()).kill_on_drop(true);
            let output = command.output().await.unwrap();
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            if output.status.success() && !errors.contains("Exception") && !printed.contains("Exception") {
                return printed;
            }
            assert!(started.elapsed() < MQADMIN_DEADLINE, "mqadmin {args:?}: {printed}{errors}");
        }
    }
}

impl Broker {
    /// How often it has come up so far.
    fn starts(&self) -> usize {
        self.server.log().matches("boot success").count()
    }

    async fn up(&self, starts: usize) {
        self.server.until(async || self.starts() >= starts).await;
    }
}

/// The brokers that the name server on `port` names, as it says it; `None` where it does not run or wants TLS.
async fn named_by(port: u16) -> Option<String> {
    const GET_BROKER_CLUSTER_INFO: u32 = 106;
    let (_, clusters) = ask(&format!("127.0.0.1:{port}"), GET_BROKER_CLUSTER_INFO, json!({}), &[]).await?;
    Some(String::from_utf8_lossy(&clusters).into_owned())
}

fn start_java(
    name: &str,
    jars: &Jars,
    dir: PathBuf,
    memory: &[&str],
    options: &[String],
    main: &str,
    conf: &str,
) -> ChildProcess {
    let file = dir.join("conf");
    fs::write(&file, conf).unwrap();
    // Its own log files go below the user's home.
    let home = format!("-Duser.home={}", dir.display());
    let mut all: Vec<String> = memory.iter().map(ToString::to_string).collect();
    all.push(home);
    // Above these the store deletes its oldest files or refuses messages, even when the disk is full of others' files.
    all.push("-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99".to_owned());
    all.push("-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.98".to_owned());
    for open in [
        "--add-exports=java.base/sun.nio.ch",
        "--add-opens=java.base/sun.nio.ch",
        "--add-opens=java.base/java.lang",
        "--add-opens=java.base/java.nio",
    ] {
        all.push(format!("{open}=ALL-UNNAMED"));
    }
    all.extend_from_slice(options);
    let mut command: Vec<OsString> = vec!["env".into(), format!("ROCKETMQ_HOME={}", dir.display()).into()];
    command.extend(jars.java(&all, None));
    command.extend([main.into(), "-c".into(), file.into()]);
    ChildProcess::start(name, dir, command)
}

/// The broker that tests share; use `servers::unique` names on it.
pub type Apache = Cluster;

/// The shared broker of this process; `None` where the jars are missing.
pub async fn apache() -> Option<Arc<Apache>> {
    static SHARED: OnceCell<Option<Arc<Apache>>> = OnceCell::const_new();
    // Check-backs come soon after a half message, for tests of transaction messages.
    let plan = ClusterPlan::default().broker_conf("transactionTimeOut=2000\ntransactionCheckInterval=1000\n");
    let started = SHARED.get_or_init(|| async { Cluster::start(plan).await.map(Arc::new) }).await;
    shared(started.clone(), "Apache RocketMQ")
}

/// Lines of broker.conf: the user ruyi with the secret right-secret may do everything, nobody else anything.
pub const ACL: &str = r#"
authenticationEnabled=true
authenticationProvider=org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider
authenticationMetadataProvider=org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider
initAuthenticationUser={"username":"ruyi","password":"right-secret"}
innerClientAuthenticationCredentials={"accessKey":"ruyi","secretKey":"right-secret"}
authorizationEnabled=true
authorizationProvider=org.apache.rocketmq.auth.authorization.provider.DefaultAuthorizationProvider
authorizationMetadataProvider=org.apache.rocketmq.auth.authorization.provider.LocalAuthorizationMetadataProvider
"#;
