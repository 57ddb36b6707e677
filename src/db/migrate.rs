//! The schema: `migrations/`, run over one connection, by one process at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, Connection, SqlStr};

use super::pace::Pace;
use super::pool::address;
use super::sql::{self, Columns};
use super::{DbError, Dialect};
use crate::vals;

/// Version, name and text of each file of `migrations/`, in their order; made by `build.rs`.
const FILES: &[(i64, &str, &str)] = &include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

static MIGRATIONS: LazyLock<Vec<Migration>> = LazyLock::new(|| {
    let one = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    FILES.iter().map(one).collect()
});

/// Table in which applied migrations are noted.
const TABLE: &str = "_sqlx_migrations";

/// Name of the lock on MySQL, one per database and at most 64 characters. sqlx's own asks for an endless wait, which
/// MariaDB answers with NULL.
const LOCK: &str = "CONCAT('ruyi.migrate.', LEFT(DATABASE(), 50))";

/// The longest wait for a connection: of a SQLite file that another process is turning into WAL mode as well.
const CONNECT: Duration = Duration::from_secs(20);

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number of its file.
    pub version: i64,
    /// Name of its file.
    pub name: String,
    /// What it runs.
    pub sql: String,
}

fn step(migration: &Migration) -> Step {
    Step {
        version: migration.version,
        name: migration.description.to_string(),
        sql: migration.sql.as_str().trim().to_owned(),
    }
}

/// The newest version that this program knows.
#[must_use]
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// What is missing in the database. Changes nothing: a SQLite file that does not exist lacks everything.
///
/// # Errors
/// When it cannot be reached, or its schema is newer than this program.
pub async fn pending(url: &str) -> Result<Vec<Step>, DbError> {
    if sqlite_file(url)?.is_some_and(|file| !file.exists()) {
        return Ok(MIGRATIONS.iter().map(step).collect());
    }
    let mut conn = connect(url).await?;
    let steps = Pace::Tool.run(missing(&mut conn)).await?;
    conn.close().await?;
    Ok(steps)
}

/// Brings the schema up to date, and tells what was applied. Safe when many processes start it at once; creates the
/// folder of a SQLite file.
///
/// # Errors
/// When the database cannot be reached, is newer than this program, or a step fails.
pub async fn run(url: &str) -> Result<Vec<Step>, DbError> {
    // The file is locked before it is opened: turning a new file into WAL mode fails while another process does it.
    let file = match sqlite_file(url)? {
        Some(path) => Some(lock_file(path).await?),
        None => None,
    };
    let mut conn = connect(url).await?;
    let dialect = Dialect::of(&conn);
    if dialect == Dialect::MySql {
        Pace::Tool.run(lock_name(&mut conn)).await?;
    }
    let applied = Pace::Tool.run(apply(&mut conn)).await;
    // When it failed, the end of the connection frees the name.
    let applied = applied?;
    if dialect == Dialect::MySql {
        sql::fetch_one(&mut conn, format!("SELECT RELEASE_LOCK({LOCK})"), vec![]).await?;
    }
    conn.close().await?;
    drop(file);
    Ok(applied)
}

async fn apply(conn: &mut AnyConnection) -> Result<Vec<Step>, DbError> {
    let steps = missing(conn).await?;
    let mut migrator = Migrator { migrations: Cow::Borrowed(MIGRATIONS.as_slice()), ..Migrator::DEFAULT };
    migrator.set_locking(false);
    // Also when nothing is missing: it finds a step that stopped half-way, and files that were changed afterwards.
    migrator.run_direct(None, conn, false).await.map_err(|error| DbError::Migrate(format!("migration: {error}")))?;
    Ok(steps)
}

async fn missing(conn: &mut AnyConnection) -> Result<Vec<Step>, DbError> {
    let fail = |error: sqlx::migrate::MigrateError| DbError::Migrate(format!("migration: {error}"));
    let applied: HashMap<i64, _> = if has_table(conn).await? {
        conn.list_applied_migrations(TABLE)
            .await
            .map_err(fail)?
            .into_iter()
            .map(|migration| (migration.version, migration.checksum))
            .collect()
    } else {
        HashMap::new()
    };
    if let Some(newer) = applied.keys().filter(|version| **version > newest()).max() {
        return Err(DbError::Migrate(format!(
            "the schema of the database is at version {newer}, this program knows versions up to {}: \
             it was migrated by a newer ruyi; use that one or a newer one",
            newest()
        )));
    }
    Ok(MIGRATIONS.iter().filter(|migration| !applied.contains_key(&migration.version)).map(step).collect())
}

async fn has_table(conn: &mut AnyConnection) -> Result<bool, DbError> {
    let text = match Dialect::of(conn) {
        Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?",
        Dialect::MySql => {
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
        }
    };
    Ok(sql::fetch_one(conn, text, vals![TABLE]).await?.map_or(Ok(0), |row| row.int(0))? > 0)
}

/// A connection that waits for locks, and for the end of a step, as long as the server lets it.
async fn connect(url: &str) -> Result<AnyConnection, DbError> {
    sqlx::any::install_default_drivers();
    let (dialect, url) = address(url)?;
    let connected = async {
        let mut conn = AnyConnection::connect(&url).await.map_err(DbError::Session)?;
        sqlx::raw_sql(dialect.session_init()).execute(&mut conn).await.map_err(DbError::Session)?;
        Ok::<_, DbError>(conn)
    };
    tokio::time::timeout(CONNECT, connected).await.unwrap_or(Err(DbError::Silent(CONNECT)))
}

/// The file behind a SQLite URL; `None` for a server or a database in memory.
///
/// # Errors
/// [`DbError::Config`] for an address that is neither SQLite nor MySQL.
pub fn sqlite_file(url: &str) -> Result<Option<PathBuf>, DbError> {
    let (dialect, url) = address(url)?;
    if dialect == Dialect::MySql || url.contains(":memory:") || url.contains("mode=memory") {
        return Ok(None);
    }
    let options = SqliteConnectOptions::from_str(&url).map_err(|error| DbError::Config(error.to_string()))?;
    Ok(Some(options.get_filename().to_owned()))
}

/// One migrating process at a time: a file beside the SQLite file.
async fn lock_file(database: PathBuf) -> Result<File, DbError> {
    let locked = tokio::task::spawn_blocking(move || {
        if let Some(folder) = database.parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder)?;
        }
        let mut path = database.into_os_string();
        path.push(".migrate.lock");
        let file = File::create(path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    let file = locked.await.map_err(|error| DbError::Stopped(error.to_string()))?;
    file.map_err(|error| DbError::Migrate(format!("cannot lock the database file: {error}")))
}

/// One migrating process at a time: a named lock of the server.
async fn lock_name(conn: &mut AnyConnection) -> Result<(), DbError> {
    let got = sql::fetch_one(conn, format!("SELECT GET_LOCK({LOCK}, 60)"), vec![]).await?;
    match got.map_or(Ok(None), |row| row.maybe_int(0))? {
        Some(1) => Ok(()),
        _ => Err(DbError::Migrate(
            "another process has been migrating this database for 60 s: wait for it, then try again".to_owned(),
        )),
    }
}

/// Waits until the database answers. A SQLite file needs no waiting, and is not created.
///
/// # Errors
/// The last error, when it does not within `limit`; at once when it refuses us.
pub async fn wait_for(url: &str, limit: Duration) -> Result<(), DbError> {
    if address(url)?.0 == Dialect::Sqlite {
        return Ok(());
    }
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match connect(url).await {
            Ok(conn) => return conn.close().await.map_err(DbError::from),
            Err(error) if !error.is_absence() || tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}
