//! Signals, on a real process: this test binary, started again. And an end in order while much is under way.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use ruyi::shutdown::Shutdown;

use crate::support::serving::{Serving, order_of};

/// Set for the process that is to be stopped.
const CHILD: &str = "RUYI_TEST_SHUTDOWN_CHILD";

/// Not a test: the process that the tests below start. `orderly` ends when told to, `stuck` never does.
#[test]
fn child_process() {
    let Ok(kind) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.on_signals().unwrap();
        println!("ready");
        shutdown.token.cancelled().await;
        println!("stopping");
        if kind == "stuck" {
            std::future::pending::<()>().await;
        }
    });
}

struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(kind: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::shutdown::child_process", "--nocapture"])
            .env(CHILD, kind)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, line: &str) {
        // The test harness writes its own words before ours.
        assert!(self.lines.any(|found| found.unwrap().ends_with(line)), "{line} never came");
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_first_signal_is_orderly() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start("orderly");
        process.wait_for("ready");
        process.signal(signal);
        process.wait_for("stopping");
        assert_eq!(process.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut process = Process::start("stuck");
        process.wait_for("ready");
        process.signal("TERM");
        process.wait_for("stopping");
        process.signal(signal);
        assert_eq!(process.child.wait().unwrap().code(), Some(code));
    }
}

/// Orders, their events, payments, parcels, and calls from the process to itself: whatever is half done when it is told
/// to stop, no part waits for one that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_in_order_while_much_is_under_way() {
    for round in 0..6 {
        let serving = Serving::start(&[]).await;
        serving.fill().await;
        let place = || tokio::spawn(serving.request(Method::POST, "/orders").json(&order_of("A1", 1)).send());
        let callers: Vec<_> = (0..20).map(|_| place()).collect();
        for caller in callers {
            assert!(caller.await.unwrap().unwrap().status().is_success());
        }
        tokio::time::sleep(Duration::from_millis(5 * round)).await;
        serving.stop().await;
    }
}
