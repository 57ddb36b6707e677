//! Programs with RocketMQ's own Java client: `tests/java`, compiled once into a temporary folder.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::jars::Jars;

const DEADLINE: Duration = Duration::from_secs(120);

/// The compiled programs.
pub struct Java {
    jars: Jars,
    classes: tempfile::TempDir,
}

/// A running one; it ends with its input.
pub struct Program {
    child: Mutex<Child>,
    input: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Java {
    /// They are compiled once; `None` where Java or its client are missing.
    pub fn compile() -> Option<&'static Self> {
        static COMPILED: OnceLock<Option<Java>> = OnceLock::new();
        COMPILED.get_or_init(|| Jars::find().map(Self::of)).as_ref()
    }

    fn of(jars: Jars) -> Self {
        let classes = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java");
        let mut command = Command::new("javac");
        command.arg("-cp").arg(jars.class_path()).arg("-d").arg(classes.path());
        command.args(["Patient.java", "Produce.java", "Consume.java", "Operate.java"].map(|name| sources.join(name)));
        let output = command.output().expect("javac, which is in every JDK");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { jars, classes }
    }

    pub fn start(&self, class: &str, args: &[&str]) -> Program {
        // Its logs go below the user's home.
        let home = format!("-Duser.home={}", self.classes.path().display());
        let java = self.jars.java(["-Xmx128m", &home], Some(self.classes.path()));
        let mut child = Command::new(&java[0])
            .args(&java[1..])
            .arg(class)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, into) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        Program { input: child.stdin.take(), child: Mutex::new(child), lines, reader: Some(reader) }
    }
}

impl Program {
    /// Gives it lines to read.
    pub fn give(&mut self, lines: &[String]) {
        let input = self.input.as_mut().unwrap();
        for line in lines {
            assert!(!line.contains('\n'), "{line}");
            writeln!(input, "{line}").unwrap();
        }
        input.flush().unwrap();
    }

    /// What it has printed so far. A program that failed says so now, and nobody waits for more of it.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap().clone();
        if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
            assert!(status.success(), "{status}: {lines:?}");
        }
        lines
    }

    /// Waits for a line that begins with `start`, and returns what came before it and that line.
    pub async fn until(&self, start: &str) -> Vec<String> {
        let started = Instant::now();
        loop {
            let lines = self.lines();
            if let Some(at) = lines.iter().position(|line| line.starts_with(start)) {
                return lines[..=at].to_vec();
            }
            assert!(started.elapsed() < DEADLINE, "no line {start:?}: {lines:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends its input, and waits for its end; what it has printed.
    pub fn finish(mut self) -> Vec<String> {
        drop(self.input.take());
        self.child.lock().unwrap().wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.lines()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}
