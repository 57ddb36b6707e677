//! A server as a child process that can be killed and started again, and that never outlives the test process.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::note;

/// The longest that a server may take to start on a busy machine; only a broken one reaches it.
const START_DEADLINE: Duration = Duration::from_secs(240);

/// The server lives as long as the standard input of its shell is open: to the end of this process, however it ends.
/// A line on it names a signal to end it with and keeps its folder; without one the folder goes too.
const GUARD: &str = r#"
dir=$1 log=$2; shift 2
"$@" </dev/null >>"$log" 2>&1 &
server=$!
echo "$server"
if read -r signal; then keep=1; else keep=; signal=KILL; fi
kill "-$signal" "$server" 2>/dev/null
wait "$server"
[ "$keep" ] || rm -rf "$dir"
"#;

/// A port that nobody listens on, out of those that the system does not give to outgoing connections: a server that
/// was killed finds its port free again.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` free ports in a row.
pub fn free_ports(count: u16) -> u16 {
    static BLOCK: Mutex<Option<Block>> = Mutex::new(None);
    let mut block = BLOCK.lock().unwrap();
    loop {
        let Some(own) = block.as_mut().filter(|own| own.next + count <= own.end) else {
            *block = Some(Block::take());
            continue;
        };
        let first = own.next;
        own.next += count;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// Ports in a row that are this process's until it ends: other test processes run at the same time, and a server binds
/// its port long after it was chosen.
struct Block {
    next: u16,
    end: u16,
}

impl Block {
    fn take() -> Self {
        const FIRST: u16 = 15_000;
        const COUNT: u16 = 170;
        const SIZE: u16 = 100;
        static TAKEN: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());
        let locks = Path::new("/tmp/ruyi-test-ports");
        fs::create_dir_all(locks).unwrap();
        for number in 0..COUNT {
            let Ok(lock) = fs::File::create(locks.join(number.to_string())) else { continue };
            if lock.try_lock().is_ok() {
                TAKEN.lock().unwrap().push(lock);
                let next = FIRST + number * SIZE;
                return Self { next, end: next + SIZE };
            }
        }
        panic!("{} blocks of ports are in use: see {}", COUNT, locks.display());
    }
}

struct Running {
    shell: Child,
    stdin: ChildStdin,
    pid: u32,
}

/// One server. Dropping it kills it and removes its folder.
pub struct ChildProcess {
    name: String,
    dir: PathBuf,
    command: Vec<OsString>,
    running: Mutex<Option<Running>>,
}

impl ChildProcess {
    /// Starts `command` with `dir` as its own folder; what it prints goes to `log` there.
    pub fn start(name: &str, dir: PathBuf, command: Vec<OsString>) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let server = Self { name: name.to_owned(), dir, command, running: Mutex::new(None) };
        server.start_again();
        server
    }

    /// The same command once more, after it was stopped.
    pub fn start_again(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "{} runs already", self.name);
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&self.dir)
            .arg(self.log_file())
            .args(&self.command)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stdin = shell.stdin.take().unwrap();
        *running = Some(Running { shell, stdin, pid: line.trim().parse().unwrap() });
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What it has printed since its folder was made.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Ends it as `kill -9` does, and returns when it is gone.
    pub fn kill(&self) {
        self.stop_with("KILL");
    }

    /// Ends it with `signal`, and returns when it is gone.
    pub fn stop_with(&self, signal: &str) {
        let Some(mut running) = self.running.lock().unwrap().take() else { panic!("{} does not run", self.name) };
        writeln!(running.stdin, "{signal}").unwrap();
        running.shell.wait().unwrap();
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.running.lock().unwrap().as_ref().expect("it runs").pid
    }

    /// Sends it a signal that does not end it (STOP, CONT, HUP).
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").arg(format!("-{signal}")).arg(pid).status().unwrap();
        assert!(status.success(), "kill -{signal} {}", self.name);
    }

    /// Waits until `ready` says so; fails with the log when it does not come.
    pub async fn until(&self, ready: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !ready().await {
            assert!(!self.has_ended(), "{} ended by itself:\n{}", self.name, self.log());
            assert!(started.elapsed() < START_DEADLINE, "{} does not start:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        note("servers", &format!("{:.1} {}", started.elapsed().as_secs_f64(), self.name));
    }

    /// It is a zombie until its shell hears that it is to end it. Never so where there is no /proc.
    fn has_ended(&self) -> bool {
        let running = self.running.lock().unwrap();
        let Some(Running { pid, .. }) = &*running else { return false };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    }

    /// Waits until something listens on `port`.
    pub async fn until_listening(&self, port: u16) {
        self.until(async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        match self.running.lock().unwrap().take() {
            // At the end of its input the shell kills the server and removes the folder.
            Some(Running { mut shell, stdin, .. }) => {
                drop(stdin);
                let _ = shell.wait();
            }
            None => drop(fs::remove_dir_all(&self.dir)),
        }
    }
}
