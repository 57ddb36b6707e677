//! MariaDB: one server shared by the tests of this process, or one of their own for those that stop it.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ruyi::db::migrate;
use sqlx::{AnyConnection, Connection};

use super::child::{ChildProcess, free_port};
use super::small_disk::{SmallDisk, on_small_disk};
use super::{installed, shared};

pub struct MariaDb {
    server: ChildProcess,
    port: u16,
    databases: AtomicU32,
}

impl MariaDb {
    /// A new server with no data; `None` where it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// With further options of the server.
    pub fn start_with(more: &str) -> Option<Self> {
        Self::start_as(more, "exec mariadbd", |_, command| Some(command))
    }

    /// All of its data is on a disk of so many megabytes, and that disk; `None` where there cannot be one. It ends
    /// itself when a rollback finds no room, and is started anew, as by a service manager.
    pub fn start_on_small_disk(megabytes: usize) -> Option<(Self, SmallDisk)> {
        let place = |dir: &Path| dir.join("disk");
        // What is written first is as small as may be.
        let more = "--innodb-log-file-size=8M";
        let again = "again() { until mariadbd \"$@\"; do sleep 1; done; }; again";
        let mariadb = Self::start_as(more, again, |dir, command| on_small_disk(megabytes, &place(dir), command))?;
        let disk = SmallDisk::of(&mariadb.server, place(mariadb.server.dir()));
        Some((mariadb, disk))
    }

    fn start_as(
        more: &str,
        run: &str,
        wrap: impl FnOnce(&Path, Vec<OsString>) -> Option<Vec<OsString>>,
    ) -> Option<Self> {
        if !installed("mariadbd") || !installed("mariadb-install-db") {
            return None;
        }
        let port = free_port();
        let dir = tempfile::tempdir().unwrap().keep();
        let id = Command::new("id").arg("-u").output().unwrap();
        let user = if id.stdout == b"0\n" { "--user=root" } else { "--skip-symbolic-links" };
        // Commits are written, not flushed: they outlive a kill of the server, not one of the machine.
        // A server that starts removes all temporary tables from its tmpdir, those of other running servers as well.
        // With exec the shell becomes the server, so that its process id is the server's.
        let script = format!(
            r#"set -eu; cd "{dir}"; mkdir -p tmp disk
            [ -d disk/data ] || mariadb-install-db --no-defaults --datadir="{dir}/disk/data" --auth-root-authentication-method=normal \
                --tmpdir="{dir}/tmp" --skip-test-db {user}
            {run} --no-defaults --datadir="{dir}/disk/data" --socket="{dir}/sock" --pid-file="{dir}/pid" \
                --tmpdir="{dir}/tmp" \
                --bind-address=127.0.0.1 --port={port} --innodb-buffer-pool-size=64M \
                --innodb-flush-log-at-trx-commit=2 --max-connections=500 --skip-log-bin {more} {user}"#,
            dir = dir.display()
        );
        let command = wrap(&dir, ["sh", "-c", &script].map(OsString::from).to_vec())?;
        Some(Self { server: ChildProcess::start("MariaDB", dir, command), port, databases: AtomicU32::new(0) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of its own to the database `name`, beside all others.
    pub async fn connect(&self, name: &str) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url(name)).await.unwrap()
    }

    /// The URL of the database `name`.
    pub fn url(&self, name: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{name}", self.port)
    }

    /// Waits until it answers.
    pub async fn ready(&self) {
        self.server.until_listening(self.port).await;
        migrate::wait_for(&self.url("mysql"), Duration::from_secs(120)).await.unwrap();
    }

    /// Makes the database `name`, and returns its URL.
    pub async fn create(&self, name: &str) -> String {
        self.ready().await;
        let mut conn = AnyConnection::connect(&self.url("mysql")).await.unwrap();
        let text = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        self.url(name)
    }

    /// As `kill -9`: what was committed stays, since the system keeps what the server had written.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// In order.
    pub fn stop(&self) {
        self.server.stop_with("TERM");
    }

    /// After `kill` or `stop`, on the same data and port.
    pub async fn start_again(&self) {
        self.server.start_again();
        self.ready().await;
    }
}

/// The URL of a new, empty database on the MariaDB server of this process; `None` where it is not installed.
pub async fn mariadb_url() -> Option<String> {
    static SERVER: OnceLock<Option<MariaDb>> = OnceLock::new();
    let server = shared(SERVER.get_or_init(MariaDb::start).as_ref(), "mariadbd")?;
    let name = format!("ruyi_{}", server.databases.fetch_add(1, Ordering::Relaxed));
    Some(server.create(&name).await)
}
