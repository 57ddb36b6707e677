//! TiDB, where the environment names one: `scripts/test-tidb` builds and starts it.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AnyConnection, Connection};

use super::{TestDb, left_out};

/// Address of the server without a database, `mysql://root@127.0.0.1:4000/`.
fn server() -> Option<String> {
    std::env::var("RUYI_TEST_TIDB").ok().filter(|url| !url.is_empty()).map(|url| url.trim_end_matches('/').to_owned())
}

/// The URL of a new, empty database; `None` without a server.
pub async fn tidb_url() -> Option<String> {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let Some(server) = server() else {
        left_out("needs a TiDB, which scripts/test-tidb builds");
        return None;
    };
    sqlx::any::install_default_drivers();
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("ruyi_{}_{number}", std::process::id());
    let mut conn = AnyConnection::connect(&format!("{server}/mysql")).await.unwrap();
    let text = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    Some(format!("{server}/{name}"))
}

/// A migrated database on TiDB.
pub async fn tidb() -> Option<TestDb> {
    Some(TestDb::open(tidb_url().await?, tempfile::tempdir().unwrap()).await)
}

/// This database is on TiDB.
pub fn is_tidb(url: &str) -> bool {
    server().is_some_and(|server| url.starts_with(&server))
}
