//! Processes of the real binary that share a broker and have a database for each role.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ruyi::clock::Clock;
use ruyi::db::{Db, Options, migrate};
use ruyi::domain::event::Role;
use ruyi::fault::Faults;

use crate::support::program::plain_environment;
use crate::support::servers::child::{ChildProcess, free_port};

/// Short waits.
const SETTINGS: &[&str] = &[
    "sandbox.warehouse.step_delay=20ms",
    r#"mq.retry.schedule=["300ms", "1s"]"#,
    "mq.retry.max_attempts=1000",
    "mq.outbox.sweep_interval=500ms",
    "mq.outbox.lease=5s",
    r#"delivery.schedule=["200ms", "500ms", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]"#,
    "delivery.breaker.open_for=1s",
    "delivery.lease=12s",
    "delivery.kinds.merchant.timeout=6s",
    "delivery.kinds.email.timeout=6s",
    "delivery.timeout=6s",
    "log.filter=warn",
    "log.format=human",
];

/// A folder with a database for each role, and a broker of its own.
pub struct SharedBroker {
    dir: tempfile::TempDir,
    settings: Vec<String>,
    // Dropped before the folder.
    broker: Option<ChildProcess>,
}

/// A process of ours that listens.
pub struct Listening {
    pub server: ChildProcess,
    pub url: String,
}

impl SharedBroker {
    /// Starts `ruyi mq broker`, and makes the databases.
    pub async fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec![format!("data_dir={}", dir.path().join("data").display())];
        for role in Role::ALL {
            let file = dir.path().join(format!("{}.db", role.name()));
            all.push(format!("database.roles.{}=sqlite://{}", role.name(), file.display()));
        }
        all.extend(["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"].map(str::to_owned));
        all.extend(SETTINGS.iter().chain(settings).map(|one| (*one).to_owned()));
        let mut shared = Self { dir, settings: all, broker: None };
        let migrated = shared.run(&["db", "migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let broker = shared.process("broker", &["mq", "broker"]);
        let found = shared.dir.path().join("data/broker.addr");
        broker.until(async || found.exists()).await;
        shared.broker = Some(broker);
        shared
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, args: &[&str]) -> Vec<OsString> {
        let mut command = plain_environment();
        command.push(env!("CARGO_BIN_EXE_ruyi").into());
        command.extend(args.iter().map(OsString::from));
        for setting in &self.settings {
            command.extend(["--set".into(), setting.into()]);
        }
        command
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A process that runs until it is dropped.
    pub fn process(&self, name: &str, args: &[&str]) -> ChildProcess {
        ChildProcess::start(name, self.folder(name), self.command(args))
    }

    /// One that listens, as soon as it is ready.
    pub async fn listening(&self, name: &str, args: &[&str]) -> Listening {
        let addr = format!("127.0.0.1:{}", free_port());
        let server = self.process(name, &[args, &["--listen", &addr]].concat());
        let url = format!("http://{addr}");
        server.until(async || status(&format!("{url}/readyz")).await == 200).await;
        Listening { server, url }
    }

    /// Runs ruyi to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        let command = self.command(args);
        Command::new(&command[0]).args(&command[1..]).current_dir(self.dir.path()).output().unwrap()
    }

    /// A look into the database of a role, beside the processes.
    pub async fn db(&self, role: Role) -> Db {
        let url = format!("sqlite://{}", self.folder(&format!("{}.db", role.name())).display());
        assert!(migrate::pending(&url).await.unwrap().is_empty());
        let options = Options { url, max_connections: 1, clock: Clock::system(), faults: Faults::none() };
        Db::open(&options).await.unwrap()
    }
}

async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build().unwrap().get(url).send().await
}

/// The status that `url` answers with; 0 when it does not.
pub async fn status(url: &str) -> u16 {
    get(url).await.map_or(0, |response| response.status().as_u16())
}

/// The sum over a metric's label values of those lines that contain `label`.
pub async fn metric(url: &str, name: &str, label: &str) -> f64 {
    let text = get(&format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
