//! Servers that the tests start for themselves, and the databases in them.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ruyi::clock::Clock;
use ruyi::db::{Db, Options, migrate};
use ruyi::fault::Faults;
use sqlx::{AnyConnection, Connection};

/// When the manual clocks of the tests start.
pub const START_MS: i64 = 1_800_000_000_000;

/// The server lives as long as the standard input of its shell is open: to the end of this process, however it ends.
const SCRIPT: &str = r#"
set -u
dir=$1 port=$2
if [ "$(id -u)" = 0 ]; then user=--user=root; else user=--no-defaults; fi
mariadb-install-db --no-defaults --datadir="$dir/data" --auth-root-authentication-method=normal --skip-test-db $user >"$dir/install.log" 2>&1
mariadbd --no-defaults --datadir="$dir/data" --socket="$dir/sock" --pid-file="$dir/pid" --bind-address=127.0.0.1 \
  --port="$port" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 --max-connections=500 \
  --skip-log-bin $([ "$user" = --user=root ] && echo "$user") </dev/null >"$dir/server.log" 2>&1 &
server=$!
cat >/dev/null
kill "$server"
wait "$server"
rm -rf "$dir"
"#;

pub struct MariaDb {
    port: u16,
    databases: AtomicU32,
    _shell: Child,
}

fn start() -> Option<MariaDb> {
    for binary in ["mariadbd", "mariadb-install-db"] {
        let found = Command::new(binary).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let required = std::env::var("RUYI_TEST_REQUIRE").is_ok_and(|value| value == "all");
            assert!(!required, "{binary} is not installed");
            eprintln!("skipped on MariaDB: {binary} is not installed");
            return None;
        }
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Removed by the shell, after the server has stopped.
    let dir = tempfile::tempdir().unwrap().keep();
    let shell = Command::new("sh")
        .args(["-c", SCRIPT, "mariadb"])
        .arg(dir)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(MariaDb { port, databases: AtomicU32::new(0), _shell: shell })
}

/// The URL of a new, empty database on the MariaDB server of this process; `None` where it is not installed.
pub async fn mariadb_url() -> Option<String> {
    static SERVER: OnceLock<Option<MariaDb>> = OnceLock::new();
    let server = SERVER.get_or_init(start).as_ref()?;
    let url = |name: &str| format!("mysql://root@127.0.0.1:{}/{name}", server.port);
    migrate::wait_for(&url("mysql"), Duration::from_secs(120)).await.unwrap();
    let name = format!("ruyi_{}", server.databases.fetch_add(1, Ordering::Relaxed));
    let mut conn = AnyConnection::connect(&url("mysql")).await.unwrap();
    let text = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    Some(url(&name))
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

/// Runs `body` in one transaction: `write!(db, [clone, these], |tx| { ... })`.
macro_rules! write_tx {
    ($db:expr, [$($cap:ident),*], |$tx:ident| $body:block) => {{
        $(let $cap = $cap.clone();)*
        $db.write("test", move |$tx| { $(let $cap = $cap.clone();)* Box::pin(async move $body) }).await
    }};
}
pub(crate) use write_tx;
