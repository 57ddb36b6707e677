//! Every role as several processes of the real program, on servers that can be broken.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AnyConnection, Connection};

use crate::support::program::{plain_environment, program};
use crate::support::servers::child::{ChildProcess, free_port};
use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::redis::{Redis, redis};
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};

/// Nothing here takes so long, on however slow a machine.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub const ROLES: [&str; 4] = ["order", "payment", "stock", "notify"];
pub const WORKERS: [&str; 3] = ["retry", "timeout", "backlog"];
/// Processes of each role.
pub const INSTANCES: usize = 3;

/// Waits as short as they may be, so that what was interrupted goes on within seconds.
const SETTINGS: &str = r#"
[mq]
degrade_after = "5s"

[mq.outbox]
sweep_interval = "1s"
lease = "5s"

[mq.retry]
schedule = ["300ms", "1s", "2s"]
max_attempts = 1000

[delivery]
schedule = ["300ms", "500ms", "1s", "1s", "2s", "2s", "2s", "2s", "2s", "5s", "5s", "5s", "5s", "5s", "5s", "5s", "5s"]
timeout = "5s"
lease = "10s"

[delivery.kinds.channel_query]
schedule = ["500ms", "1s", "1s", "2s", "2s", "2s", "5s", "5s", "5s", "5s", "5s", "5s", "30s", "1m", "1m"]

[delivery.kinds.merchant]
timeout = "5s"

[delivery.kinds.email]
timeout = "5s"

[payment]
query_after = "2s"

[sandbox.warehouse]
step_delay = "20ms"

[log]
filter = "info"
"#;

/// One process.
pub struct Instance {
    pub name: String,
    url: String,
    server: ChildProcess,
    /// How wrong its clock is, as `faketime` reads it; there where clocks of their own were asked for.
    clock: PathBuf,
}

impl Instance {
    /// It hangs from now on.
    pub fn freeze(&self) {
        self.server.signal("STOP");
    }

    /// A frozen process goes on.
    pub fn thaw(&self) {
        self.server.signal("CONT");
    }

    /// From the next second on its clock is wrong by so many seconds.
    pub fn set_clock(&self, seconds: i64) {
        std::fs::write(&self.clock, format!("{seconds:+}\n")).unwrap();
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// A killed process again, as whatever looks after processes would do.
    pub fn start_again(&self) {
        self.server.start_again();
    }

    pub fn kill_and_start_again(&self) {
        self.kill();
        self.start_again();
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn ready(&self) {
        let url = format!("{}/readyz", self.url);
        self.server.until(async || reqwest::get(&url).await.is_ok_and(|reply| reply.status().is_success())).await;
    }
}

/// What the processes run on.
pub struct RolePlan {
    /// The URL of each role's database, in the order of [`ROLES`].
    pub databases: Vec<String>,
    /// The server of these databases, where it belongs to the cluster.
    pub mariadb: Option<MariaDb>,
    /// Processes of each role.
    pub instances: usize,
    /// Processes of each worker.
    pub workers: usize,
    /// Further sections of the configuration.
    pub settings: String,
    /// Each process has a clock of its own, where Debian's `faketime` is installed.
    pub clocks: bool,
}

impl RolePlan {
    /// One process of each role and worker on these databases.
    pub fn on(databases: Vec<String>) -> Self {
        Self { databases, mariadb: None, instances: 1, workers: 1, settings: String::new(), clocks: false }
    }

    /// On a MariaDB of its own, with the databases of [`database_of`]; `None` where it is not installed.
    pub async fn on_mariadb() -> Option<Self> {
        Some(Self::with(MariaDb::start()?).await)
    }

    /// A database for each role on this server.
    pub async fn with(mariadb: MariaDb) -> Self {
        let mut databases = Vec::new();
        for role in ROLES {
            databases.push(mariadb.create(&database_of(role)).await);
        }
        Self { mariadb: Some(mariadb), ..Self::on(databases) }
    }
}

/// The name of a role's database on the MariaDB of a cluster.
pub fn database_of(role: &str) -> String {
    format!("ruyi_{role}")
}

pub struct RoleCluster {
    dir: tempfile::TempDir,
    plan: RolePlan,
    pub rocketmq: Cluster,
    pub redis: Redis,
    pub instances: Vec<Instance>,
}

impl RoleCluster {
    /// Starts everything but the databases and waits until all of it is ready; `None` where a server is not installed.
    pub async fn start(plan: RolePlan) -> Option<Self> {
        let redis = redis().await?;
        let rocketmq = Cluster::start(ClusterPlan::pair()).await?;
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<Vec<u16>> = ROLES.map(|_| (0..plan.instances).map(|_| free_port()).collect()).to_vec();
        let mut roles = Self { dir, plan, rocketmq, redis, instances: Vec::new() };
        roles.configure(&ports);
        let migrated = roles.ruyi(&["db", "migrate"]).await;
        assert!(migrated.ok, "{}", migrated.text());
        for (role, ports) in ROLES.iter().zip(&ports) {
            for (number, port) in (1..).zip(ports) {
                roles.run(&format!("{role}-{number}"), &["serve", role], *port);
            }
        }
        for (number, worker) in (1..).zip(WORKERS.repeat(roles.plan.workers)) {
            roles.run(&format!("worker-{number}"), &["worker", worker], free_port());
        }
        roles.all_ready().await;
        Some(roles)
    }

    /// The database server that [`RolePlan::on_mariadb`] has started.
    pub fn mariadb(&self) -> &MariaDb {
        self.plan.mariadb.as_ref().expect("a cluster on MariaDB")
    }

    fn configure(&self, ports: &[Vec<u16>]) {
        let mut text = format!("data_dir = \"{}\"\n", self.dir.path().join("data").display());
        writeln!(text, "[database.roles]").unwrap();
        for (role, url) in ROLES.iter().zip(&self.plan.databases) {
            writeln!(text, "{role} = \"{url}\"").unwrap();
        }
        writeln!(text, "[cache]\nurl = \"{}\"", self.redis.url()).unwrap();
        writeln!(text, "[client]").unwrap();
        for (role, ports) in ROLES.iter().zip(ports) {
            let urls: Vec<_> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
            writeln!(text, "{role} = \"{}\"", urls.join(",")).unwrap();
        }
        let namesrv = format!("[mq]\nnamesrv = \"{}\"", self.rocketmq.namesrv());
        text.push_str(&SETTINGS.replace("[mq]", &namesrv));
        text.push_str(&self.plan.settings);
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("ruyi.toml")
    }

    /// The program with the configuration of these roles, and of the environment's settings only `environment`.
    fn command(&self, environment: &[OsString], args: &[&str]) -> Vec<OsString> {
        let mut command = plain_environment();
        command.extend_from_slice(environment);
        command.push(program());
        command.extend(["--config".into(), self.config().into()]);
        command.extend(args.iter().map(OsString::from));
        command
    }

    fn run(&mut self, name: &str, args: &[&str], port: u16) {
        let listen = format!("127.0.0.1:{port}");
        let clock = self.dir.path().join(format!("{name}.clock"));
        let environment = if self.plan.clocks { clock_of_its_own(&clock) } else { Vec::new() };
        let command = self.command(&environment, &[args, &["--listen", &listen]].concat());
        let server = ChildProcess::start(name, self.dir.path().join(name), command);
        self.instances.push(Instance { name: name.to_owned(), url: format!("http://{listen}"), server, clock });
    }

    pub async fn all_ready(&self) {
        for instance in &self.instances {
            instance.ready().await;
        }
    }

    /// The process of this name.
    pub fn instance(&self, name: &str) -> &Instance {
        self.instances.iter().find(|instance| instance.name == name).expect("a process of this name")
    }

    /// Base URLs of the processes of a role.
    pub fn urls(&self, role: &str) -> Vec<String> {
        let of_role = self.instances.iter().filter(|instance| instance.name.starts_with(role));
        of_role.map(|instance| instance.url.clone()).collect()
    }

    /// Starts the program; its output is read when it has ended.
    pub fn spawn(&self, args: &[&str]) -> tokio::process::Child {
        let command = self.command(&[], args);
        let mut child = tokio::process::Command::new(&command[0]);
        child.args(&command[1..]).current_dir(self.dir.path()).kill_on_drop(true);
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the program to its end.
    pub async fn ruyi(&self, args: &[&str]) -> Ended {
        let output = self.spawn(args).wait_with_output().await.unwrap();
        Ended::from(output)
    }

    /// Writes a file that the program may read.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Orders so far; `None` while the database does not answer.
    pub async fn orders(&self) -> Option<i64> {
        let mut conn = AnyConnection::connect(&self.plan.databases[0]).await.ok()?;
        let row: (i64,) = sqlx::query_as("SELECT COUNT(*) FROM orders").fetch_one(&mut conn).await.ok()?;
        conn.close().await.ok()?;
        Some(row.0)
    }

    /// Waits until there are so many orders.
    pub async fn until_orders(&self, count: i64) {
        let started = Instant::now();
        while self.orders().await.is_none_or(|orders| orders < count) {
            assert!(started.elapsed() < DEADLINE, "{:?} of {count} orders came\n{}", self.orders().await, self.logs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The last lines of every process.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for instance in &self.instances {
            let log = instance.server.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(12)..].join("\n");
            writeln!(text, "--- {}\n{last}", instance.name).unwrap();
        }
        text
    }
}

/// What makes a process see the time that `clock` says; nothing where `faketime` is not installed.
fn clock_of_its_own(clock: &Path) -> Vec<OsString> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let Some(library) = libraries.into_iter().find(|library| library.exists()) else { return Vec::new() };
    std::fs::write(clock, "+0\n").unwrap();
    let paths = [("LD_PRELOAD", library.as_path()), ("FAKETIME_TIMESTAMP_FILE", clock)];
    let mut environment: Vec<OsString> = paths.map(|(name, path)| format!("{name}={}", path.display()).into()).to_vec();
    // Waits go by the other clock, which nobody sets.
    let settings = ["FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DISABLE_SHM=1"];
    environment.extend(settings.map(OsString::from));
    environment
}

/// A program that has ended.
pub struct Ended {
    pub ok: bool,
    out: String,
    err: String,
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// Its output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or(Value::Null)
    }

    /// All that it said.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}
