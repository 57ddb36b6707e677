//! Servers that the tests start for themselves, and the databases in them.

pub mod child;
pub mod jars;
pub mod java;
pub mod mariadb;
pub mod redis;
pub mod remoting;
pub mod rocketmq;
pub mod small_disk;
pub mod tidb;

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use ruyi::clock::Clock;
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options, migrate};
use ruyi::fault::Faults;

pub use mariadb::mariadb_url;

/// When the manual clocks of the tests start.
pub const START_MS: i64 = 1_800_000_000_000;

/// What becomes of tests that need a server, by `RUYI_TEST_REQUIRE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Require {
    /// "all", as in CI: a server that is not installed is a failure.
    All,
    /// "none", as in the quick tier: they are skipped, even where the server is there.
    None,
    /// Skipped where the server is not installed.
    Installed,
}

fn require() -> Require {
    match std::env::var("RUYI_TEST_REQUIRE").as_deref() {
        Ok("all") => Require::All,
        Ok("none") => Require::None,
        _ => Require::Installed,
    }
}

/// Notes `line` in a file of the run's report, where there is one: `scripts/run-tests` reads it.
pub fn note(file: &str, line: &str) {
    let Some(dir) = std::env::var_os("RUYI_TEST_REPORT") else { return };
    let path = std::path::Path::new(&dir).join(file);
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    // One write, so that lines of several processes do not mix.
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Says why a test does nothing; fails where every server has to be there.
fn skipped(why: &str) {
    assert!(require() != Require::All, "{why}");
    left_out(why);
}

/// Says why a test does nothing, which is right everywhere.
fn left_out(why: &str) {
    eprintln!("skipped: {why}");
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    note("skipped", &format!("{test}: {why}"));
}

/// Whether `binary` can be run.
fn installed(binary: &str) -> bool {
    if require() == Require::None {
        skipped(&format!("needs {binary}"));
        return false;
    }
    let found = Command::new(binary).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = found.is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if missing {
        skipped(&format!("{binary} is not installed"));
    }
    !missing
}

/// What is shared by all tests of a process, and is not there for any: each of them says so.
fn shared<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        skipped(&format!("needs {what}"));
    }
    found
}

/// `name` with a number that no other test of this process has: for topics and groups on a shared broker.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A migrated database with a manual clock.
pub struct TestDb {
    pub db: Db,
    pub url: String,
    pub clock: Clock,
    pub dir: tempfile::TempDir,
}

impl TestDb {
    pub async fn open(url: String, dir: tempfile::TempDir) -> Self {
        migrate::run(&url).await.unwrap();
        let clock = Clock::manual(START_MS);
        let options = Options { url: url.clone(), max_connections: 8, clock: clock.clone(), faults: Faults::none() };
        Self { db: Db::open(&options).await.unwrap(), url, clock, dir }
    }
}

/// On SQLite, in a folder of its own.
pub async fn sqlite() -> TestDb {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("ruyi.db").display());
    TestDb::open(url, dir).await
}

/// On MariaDB, where it is installed.
pub async fn mariadb() -> Option<TestDb> {
    Some(TestDb::open(mariadb_url().await?, tempfile::tempdir().unwrap()).await)
}

/// The count that `text` selects.
pub async fn count(db: &Db, text: &'static str) -> i64 {
    let mut conn = db.read().await.unwrap();
    sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap()
}

/// Runs `body` in one transaction: `write!(db, [clone, these], |tx| { ... })`.
macro_rules! write_tx {
    ($db:expr, [$($cap:ident),*], |$tx:ident| $body:block) => {{
        $(let $cap = $cap.clone();)*
        $db.write("test", move |$tx| { $(let $cap = $cap.clone();)* Box::pin(async move $body) }).await
    }};
}
pub(crate) use write_tx;
