//! A process that is started again whenever it ends, and requests that outlive it.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::program::settings_of_tests;

/// Nothing here takes so long, on however slow a machine.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(100);

/// Recovery within seconds.
const SETTINGS: &[&str] = &[
    "sandbox.warehouse.step_delay=20ms",
    "payment.query_after=1s",
    r#"delivery.kinds.channel_query.schedule=["200ms","200ms","1s","1s","5s","5s","30s"]"#,
    r#"delivery.kinds.refund_query.schedule=["200ms","200ms","1s","1s","5s","5s","30s"]"#,
    r#"mq.retry.schedule=["300ms"]"#,
    "mq.retry.max_attempts=1000",
    "mq.producer.timeout=900ms",
    "mq.outbox.lease=1s",
    "mq.outbox.sweep_interval=500ms",
    r#"delivery.schedule=["200ms","200ms","300ms","500ms","500ms","500ms","1s","1s","1s","1s","1s","1s","1s","1s"]"#,
    "delivery.timeout=900ms",
    "delivery.kinds.merchant.timeout=900ms",
    "delivery.kinds.email.timeout=900ms",
    "delivery.breaker.open_for=1s",
    "delivery.lease=1s",
    "http.request_timeout=5s",
    "log.filter=warn",
];

/// Looks until there is something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub struct CrashedProcess(Arc<Inner>);

struct Inner {
    dir: tempfile::TempDir,
    settings: Vec<String>,
    client: reqwest::Client,
    url: watch::Sender<String>,
    pid: AtomicU32,
    exits: Mutex<Vec<ExitStatus>>,
    stopping: AtomicBool,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Clone for CrashedProcess {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl CrashedProcess {
    /// Starts `serve all` in a new directory. It dies once at each point of `crash_at`, in the order in which they are
    /// passed.
    pub async fn start(settings: &[&str], crash_at: &[&str]) -> Self {
        let process = Self(Arc::new(Inner {
            dir: tempfile::tempdir().unwrap(),
            settings: SETTINGS.iter().chain(settings).map(|one| (*one).to_owned()).collect(),
            client: reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap(),
            url: watch::Sender::new(String::new()),
            pid: AtomicU32::new(0),
            exits: Mutex::default(),
            stopping: AtomicBool::new(false),
            supervisor: Mutex::default(),
        }));
        let crash_at = crash_at.iter().map(|point| (*point).to_owned()).collect();
        let supervisor = tokio::spawn(process.clone().supervise(crash_at));
        *process.0.supervisor.lock().unwrap() = Some(supervisor);
        process.serving().await;
        process
    }

    /// The command of the process, which dies at the first of these points that it passes.
    pub fn command(&self, crash_at: &[String]) -> Command {
        let mut command = self.ruyi(&["serve", "all", "--listen", "127.0.0.1:0"]);
        if !crash_at.is_empty() {
            command.env(ruyi::fault::CRASH_AT, crash_at.join(","));
        }
        command
    }

    fn ruyi(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruyi"));
        for name in settings_of_tests() {
            command.env_remove(name);
        }
        command.current_dir(self.0.dir.path()).args(args);
        command.arg("--set").arg(format!("data_dir={}", self.0.dir.path().join("data").display()));
        for setting in &self.0.settings {
            command.args(["--set", setting]);
        }
        command
    }

    fn log(&self) -> PathBuf {
        self.0.dir.path().join("log")
    }

    async fn supervise(self, mut crash_at: Vec<String>) {
        let mut starts_in_vain = 0;
        loop {
            let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
            let mut command = tokio::process::Command::from(self.command(&crash_at));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            self.0.pid.store(child.id().unwrap_or(0), Ordering::SeqCst);
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
            starts_in_vain += 1;
            if let Ok(serving) = serde_json::from_str::<Value>(&line) {
                starts_in_vain = 0;
                self.0.url.send_replace(serving["url"].as_str().unwrap().to_owned());
            }
            let status = child.wait().await.unwrap();
            self.0.url.send_replace(String::new());
            self.0.exits.lock().unwrap().push(status);
            crash_at.retain(|point| !self.has_died_at(point));
            if self.0.stopping.load(Ordering::SeqCst) {
                return;
            }
            assert!(starts_in_vain < 10, "it ends again and again: {status}\n{}", self.logged());
        }
    }

    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The points at which it died, one after the other, as its log names them.
    pub fn died_at(&self) -> Vec<String> {
        let log = self.logged();
        let places = log.split("the process dies at ").skip(1);
        places.map(|rest| rest.split(['"', '\n', '\u{1b}']).next().unwrap_or_default().trim().to_owned()).collect()
    }

    /// Whether it died at this point, `<point>` or `<point>:<n>`.
    pub fn has_died_at(&self, point: &str) -> bool {
        self.died_at().iter().any(|name| point.split(':').next() == Some(name))
    }

    /// Its folder.
    pub fn dir(&self) -> &std::path::Path {
        self.0.dir.path()
    }

    /// How often it has ended.
    pub fn exits(&self) -> usize {
        self.0.exits.lock().unwrap().len()
    }

    /// Its address, as soon as it serves.
    pub async fn serving(&self) -> String {
        let mut url = self.0.url.subscribe();
        let found = tokio::time::timeout(DEADLINE, url.wait_for(|url| !url.is_empty())).await;
        found.unwrap_or_else(|_| panic!("it never serves:\n{}", self.logged())).unwrap().clone()
    }

    /// Sends a signal to the process that runs now.
    pub fn signal(&self, name: &str) {
        let id = self.0.pid.load(Ordering::SeqCst).to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// A request, repeated as a real client does while the process is away or says "later".
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> (StatusCode, Value) {
        let started = Instant::now();
        loop {
            let url = self.serving().await;
            let mut request = self.0.client.request(method.clone(), format!("{url}{path}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body.to_vec());
            }
            let answer = async {
                let response = request.send().await?;
                let status = response.status();
                Ok::<_, reqwest::Error>((status, response.json::<Value>().await?))
            };
            match answer.await {
                Ok((status, body)) if !status.is_server_error() => return (status, body),
                other => assert!(started.elapsed() < DEADLINE, "{method} {path}: {other:?}\n{}", self.logged()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(Method::GET, path, &[], None).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.request(method, path, &[], Some(body.to_string().as_bytes())).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Everything settles, and then nothing is wrong: with no time allowed for anything to be under way.
    pub async fn audit(&self) {
        let started = Instant::now();
        let (mut changed, mut seen) = (started, Value::Null);
        loop {
            let mut command = self.ruyi(&["audit", "--settle", "0s", "--bound", "0s", "--output", "json"]);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
                panic!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
            });
            if report["ok"] == true {
                assert_eq!(output.status.code(), Some(0));
                assert_eq!(report["warnings"], serde_json::json!([]), "{}", self.logged());
                return;
            }
            // On a busy machine it takes long; what is wrong does not change.
            if report["checks"] != seen {
                (changed, seen) = (Instant::now(), report["checks"].clone());
            }
            let is_late = changed.elapsed() >= DEADLINE || started.elapsed() >= 3 * DEADLINE;
            assert!(!is_late, "{report:#}\n{}", self.logged());
            tokio::time::sleep(LOOK * 3).await;
        }
    }

    /// Stops it in order; how each of its processes ended.
    pub async fn stop(&self) -> Vec<ExitStatus> {
        self.serving().await;
        self.0.stopping.store(true, Ordering::SeqCst);
        self.signal("TERM");
        let supervisor = self.0.supervisor.lock().unwrap().take().unwrap();
        tokio::time::timeout(DEADLINE, supervisor).await.unwrap().unwrap();
        self.0.exits.lock().unwrap().clone()
    }
}
