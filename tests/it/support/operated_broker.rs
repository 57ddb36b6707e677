//! An operator beside `ruyi mq broker`, found through the data directory that both use.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;

use crate::support::operators::Operator;
use crate::support::servers::child::free_ports;

const DEADLINE: Duration = Duration::from_secs(120);

/// The operator, and the broker as a process.
pub struct OperatedBroker {
    pub operator: Operator,
    port: u16,
    broker: Option<Child>,
}

impl OperatedBroker {
    /// The broker, and an operator with these further settings.
    pub async fn start(settings: &[&str]) -> Self {
        // The same after a restart.
        let port = free_ports(5);
        let ports = [
            format!("mq.embedded.namesrv_port={port}"),
            format!("mq.embedded.broker_port={}", port + 3),
            String::from("log.filter=warn"),
        ];
        let all: Vec<&str> = settings.iter().copied().chain(ports.iter().map(String::as_str)).collect();
        let mut embedded = Self { operator: Operator::with(&all), port, broker: None };
        embedded.start_broker().await;
        embedded
    }

    /// For `mq.namesrv`.
    pub fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn addr_file(&self) -> PathBuf {
        self.operator.data_dir().join("broker.addr")
    }

    /// `kill -9`.
    pub async fn kill_broker(&mut self) {
        self.broker.take().unwrap().kill().await.unwrap();
        let _ = std::fs::remove_file(self.addr_file());
    }

    /// Forgets everything that the broker had; it does not run.
    pub fn empty_broker(&self) {
        for entry in std::fs::read_dir(self.operator.data_dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    pub async fn start_broker(&mut self) {
        let mut command = self.operator.command(&["mq", "broker"]);
        self.broker = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while !self.addr_file().exists() {
            assert!(started.elapsed() < DEADLINE, "the broker does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
