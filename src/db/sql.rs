//! The few shapes of statement that the tables share: bound values, multi-row inserts, IN lists, multi-row updates.
//!
//! Every batch is cut into chunks of fixed sizes, so that few texts are prepared, once per connection.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Row};

use super::pace::Pace;
use super::{DbError, Dialect};

/// Rows per statement: a batch is cut into these.
const CHUNKS: [usize; 5] = [256, 64, 16, 4, 1];

/// A value to bind.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    /// BIGINT, SMALLINT.
    Int(i64),
    /// BIGINT or SMALLINT that may be absent.
    MaybeInt(Option<i64>),
    /// VARCHAR, TEXT.
    Text(String),
    /// VARCHAR that may be absent.
    MaybeText(Option<String>),
    /// LONGBLOB.
    Bytes(Vec<u8>),
}

impl Val {
    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::MaybeInt(_))
    }
}

/// As a key is told to people.
impl fmt::Display for Val {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) | Self::MaybeInt(Some(value)) => value.fmt(formatter),
            Self::Text(value) | Self::MaybeText(Some(value)) => value.fmt(formatter),
            Self::MaybeInt(None) | Self::MaybeText(None) => formatter.write_str("NULL"),
            Self::Bytes(value) => write!(formatter, "{} bytes", value.len()),
        }
    }
}

macro_rules! val_from {
    ($($from:ty => $make:expr;)*) => {
        $(impl From<$from> for Val { fn from(value: $from) -> Self { $make(value) } })*
    };
}

val_from! {
    i64 => Val::Int;
    bool => |value| Val::Int(i64::from(value));
    Option<i64> => Val::MaybeInt;
    String => Val::Text;
    &str => |value: &str| Val::Text(value.to_owned());
    &String => |value: &String| Val::Text(value.clone());
    Option<String> => Val::MaybeText;
    Option<&str> => |value: Option<&str>| Val::MaybeText(value.map(str::to_owned));
    Vec<u8> => Val::Bytes;
}

/// Values of one row or statement: `vals![id, name, amount]`.
#[macro_export]
macro_rules! vals {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::sql::Val::from($value)),*] };
}

type AnyQuery = Query<'static, Any, sqlx::any::AnyArguments>;

fn query(sql: impl Into<Cow<'static, str>>, vals: impl IntoIterator<Item = Val>) -> AnyQuery {
    let mut query = match sql.into() {
        Cow::Borrowed(text) => sqlx::query(text),
        // Texts are put together from constants of this module's callers; values are always bound.
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
    };
    for val in vals {
        query = match val {
            Val::Int(value) => query.bind(value),
            Val::MaybeInt(value) => query.bind(value),
            Val::Text(value) => query.bind(value),
            Val::MaybeText(value) => query.bind(value),
            Val::Bytes(value) => query.bind(value),
        };
    }
    query
}

/// The outcome of a statement, if the database answers in time. If not, its connection can only be closed.
async fn answer<T>(dialect: Dialect, outcome: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DbError> {
    let limit = Pace::current().answer(dialect);
    match tokio::time::timeout(limit, outcome).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(DbError::Silent(limit)),
    }
}

/// Runs a text without values, which may be several statements.
///
/// # Errors
/// The database's.
pub(super) async fn run(conn: &mut AnyConnection, text: &'static str) -> Result<(), DbError> {
    answer(Dialect::of(conn), sqlx::raw_sql(text).execute(conn)).await.map(|_| ())
}

/// Runs one statement; the number of rows that it touched.
///
/// # Errors
/// The database's.
pub async fn execute(
    conn: &mut AnyConnection,
    sql: impl Into<Cow<'static, str>>,
    vals: Vec<Val>,
) -> Result<u64, DbError> {
    Ok(answer(Dialect::of(conn), query(sql, vals).execute(conn)).await?.rows_affected())
}

/// All rows of a SELECT that is bounded by its own LIMIT or keys.
///
/// # Errors
/// The database's.
pub async fn fetch(
    conn: &mut AnyConnection,
    sql: impl Into<Cow<'static, str>>,
    vals: Vec<Val>,
) -> Result<Vec<AnyRow>, DbError> {
    answer(Dialect::of(conn), query(sql, vals).fetch_all(conn)).await
}

/// The first row of a SELECT, if there is one.
///
/// # Errors
/// The database's.
pub async fn fetch_one(
    conn: &mut AnyConnection,
    sql: impl Into<Cow<'static, str>>,
    vals: Vec<Val>,
) -> Result<Option<AnyRow>, DbError> {
    answer(Dialect::of(conn), query(sql, vals).fetch_optional(conn)).await
}

/// Inserts rows, many per statement: `{head} VALUES (...),(...){tail}`; the number of rows inserted.
///
/// # Errors
/// The database's.
pub async fn insert(conn: &mut AnyConnection, head: &str, rows: Vec<Vec<Val>>, tail: &str) -> Result<u64, DbError> {
    let Some(width) = rows.first().map(Vec::len) else { return Ok(0) };
    let row = format!("({}?)", "?,".repeat(width - 1));
    let mut rows = rows.into_iter();
    let mut touched = 0;
    while rows.len() > 0 {
        let size = chunk_of(rows.len());
        let sql = format!("{head} VALUES {}{tail}", vec![row.as_str(); size].join(","));
        touched += execute(conn, sql, rows.by_ref().take(size).flatten().collect()).await?;
    }
    Ok(touched)
}

/// What became of rows that were to be inserted where their key did not exist yet. Some may have been left out, without
/// a word: so whoever inserts them says what that means.
#[must_use = "rows may have been left out: `all()` where each had to be new, `or_known()` where that is right"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    count: u64,
    wanted: u64,
}

impl Inserted {
    /// How many rows are new.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }

    /// Each row is new.
    #[must_use]
    pub fn is_all(self) -> bool {
        self.count == self.wanted
    }

    /// Each row had to be new: this transaction has found its key to be free.
    ///
    /// # Errors
    /// [`DbError::Overtaken`]: another transaction has taken one of the keys since, and has committed. This one is run
    /// again then, and sees it.
    pub fn all(self) -> Result<(), DbError> {
        if self.is_all() { Ok(()) } else { Err(DbError::Overtaken) }
    }

    /// A row that was there already is as good as the new one. Whoever says so says why.
    pub fn or_known(self) {}
}

/// Inserts the rows whose key does not exist yet. The caller has checked lengths and NULLs: MySQL's IGNORE would bend
/// them silently.
///
/// # Errors
/// The database's.
pub async fn insert_ignore(
    conn: &mut AnyConnection,
    table_and_columns: &str,
    rows: Vec<Vec<Val>>,
) -> Result<Inserted, DbError> {
    let (head, tail) = Dialect::of(conn).insert_ignore();
    let wanted = rows.len() as u64;
    let count = insert(conn, &format!("{head} INTO {table_and_columns}"), rows, tail).await?;
    Ok(Inserted { count, wanted })
}

/// The largest chunk that `left` rows fill.
pub(super) fn chunk_of(left: usize) -> usize {
    CHUNKS.into_iter().find(|size| *size <= left).unwrap_or(1)
}

/// SELECT over a list of keys: `{before} IN (...){after}`, with `fixed` bound first. Lists are padded with their last
/// key to one of the chunk sizes.
///
/// # Errors
/// The database's.
pub async fn select_in(
    conn: &mut AnyConnection,
    before: &str,
    after: &str,
    fixed: &[Val],
    keys: Vec<Val>,
) -> Result<Vec<AnyRow>, DbError> {
    let mut found = Vec::new();
    for (sql, vals) in in_lists(before, after, fixed, keys) {
        found.extend(fetch(conn, sql, vals).await?);
    }
    Ok(found)
}

/// Rows that cannot be read, and why.
pub type Unreadable<'r> = Vec<(&'r AnyRow, DbError)>;

/// Reads rows one by one, so that one that cannot be read costs none of the others.
pub fn read_each<'r, T>(
    rows: impl IntoIterator<Item = &'r AnyRow>,
    read: impl Fn(&AnyRow) -> Result<T, DbError>,
) -> (Vec<T>, Unreadable<'r>) {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for row in rows {
        match read(row) {
            Ok(one) => found.push(one),
            Err(why) => unreadable.push((row, why)),
        }
    }
    (found, unreadable)
}

/// UPDATE or DELETE over a list of keys, as [`select_in`]; the number of rows touched.
///
/// # Errors
/// The database's.
pub async fn execute_in(
    conn: &mut AnyConnection,
    before: &str,
    after: &str,
    fixed: &[Val],
    keys: Vec<Val>,
) -> Result<u64, DbError> {
    let mut touched = 0;
    for (sql, vals) in in_lists(before, after, fixed, keys) {
        touched += execute(conn, sql, vals).await?;
    }
    Ok(touched)
}

fn in_lists(before: &str, after: &str, fixed: &[Val], keys: Vec<Val>) -> Vec<(String, Vec<Val>)> {
    keys.chunks(CHUNKS[0])
        .map(|chunk| {
            let size = CHUNKS.into_iter().rev().find(|size| *size >= chunk.len()).unwrap_or(CHUNKS[0]);
            let mut vals = fixed.to_vec();
            vals.extend_from_slice(chunk);
            if let Some(last) = chunk.last() {
                vals.extend(std::iter::repeat_n(last.clone(), size - chunk.len()));
            }
            (format!("{before} IN ({}?){after}", "?,".repeat(size - 1)), vals)
        })
        .collect()
}

/// A column of [`update`].
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Takes the new value.
    Set(&'static str),
    /// The new value is added to it.
    Add(&'static str),
}

impl Column {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Set(name) | Self::Add(name) => name,
        }
    }
}

/// Updates many rows, each with its own values: a row is its key, then one value per column. The rows were locked by
/// this transaction and are named once each; the number of rows touched.
///
/// # Errors
/// The database's, or [`DbError::Row`] when a row is not there any more.
pub async fn update(
    conn: &mut AnyConnection,
    table: &'static str,
    key: &str,
    columns: &[Column],
    rows: Vec<Vec<Val>>,
) -> Result<(), DbError> {
    let dialect = Dialect::of(conn);
    let wanted = rows.len() as u64;
    // A column has one type, so the first row tells it for all.
    let numbers: Vec<bool> = rows.first().map_or_else(Vec::new, |row| row.iter().map(Val::is_number).collect());
    let mut rows = rows.into_iter();
    let mut touched = 0;
    while rows.len() > 0 {
        let size = chunk_of(rows.len());
        let sql = dialect.update_rows(table, key, columns, &numbers, size);
        touched += execute(conn, sql, rows.by_ref().take(size).flatten().collect()).await?;
    }
    if touched == wanted {
        Ok(())
    } else {
        let what = format!("{touched} of {wanted} rows were there to be updated");
        Err(DbError::Row { table, key: key.to_owned(), what })
    }
}

/// Reads columns by position.
pub trait Columns {
    /// A number.
    ///
    /// # Errors
    /// When the column is something else.
    fn int(&self, column: usize) -> Result<i64, DbError>;
    /// A number that may be absent.
    ///
    /// # Errors
    /// When the column is something else.
    fn maybe_int(&self, column: usize) -> Result<Option<i64>, DbError>;
    /// A text.
    ///
    /// # Errors
    /// When the column is something else.
    fn text(&self, column: usize) -> Result<String, DbError>;
    /// A text that may be absent.
    ///
    /// # Errors
    /// When the column is something else.
    fn maybe_text(&self, column: usize) -> Result<Option<String>, DbError>;
    /// Bytes.
    ///
    /// # Errors
    /// When the column is something else.
    fn bytes(&self, column: usize) -> Result<Vec<u8>, DbError>;
    /// A value that is stored as JSON, of the row of `table` with this key.
    ///
    /// # Errors
    /// When the column is something else.
    fn json<T: DeserializeOwned>(&self, column: usize, table: &'static str, key: i64) -> Result<T, DbError> {
        let what = |error: serde_json::Error| DbError::Row { table, key: key.to_string(), what: error.to_string() };
        serde_json::from_str(&self.text(column)?).map_err(what)
    }
}

impl Columns for AnyRow {
    fn int(&self, column: usize) -> Result<i64, DbError> {
        Ok(self.try_get::<i64, _>(column)?)
    }

    fn maybe_int(&self, column: usize) -> Result<Option<i64>, DbError> {
        Ok(self.try_get::<Option<i64>, _>(column)?)
    }

    fn text(&self, column: usize) -> Result<String, DbError> {
        Ok(self.try_get::<String, _>(column)?)
    }

    fn maybe_text(&self, column: usize) -> Result<Option<String>, DbError> {
        Ok(self.try_get::<Option<String>, _>(column)?)
    }

    fn bytes(&self, column: usize) -> Result<Vec<u8>, DbError> {
        Ok(self.try_get::<Vec<u8>, _>(column)?)
    }
}
