//! The databases of the roles, each once, for the commands that read what these have on record.

use std::collections::VecDeque;

use anyhow::Context as _;
use sqlx::AnyConnection;

use super::{Context, audit};
use crate::db::{Db, DbError, delivery, outbox};
use crate::domain::event::Role;

/// Rows read at once.
const PAGE: i64 = 256;

/// A database and the roles that share it.
pub(super) struct Part {
    /// Their names, comma-separated.
    pub roles: String,
    /// Without its password.
    pub shown: String,
    pub db: Db,
}

/// The databases of all roles, each once; or of one role.
pub(super) async fn open(context: &Context, only: Option<Role>) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (url, roles) in context.config.databases(&Role::ALL) {
        if only.is_some_and(|only| !roles.contains(&only)) {
            continue;
        }
        let roles = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",");
        parts.push(Part { roles, shown: url.masked(), db: audit::open_one(context, &url).await? });
    }
    Ok(parts)
}

pub(super) async fn close(parts: &[Part]) {
    for part in parts {
        part.db.close().await;
    }
}

/// A role by its name.
pub(super) fn role(text: &str) -> Result<Role, String> {
    let known = Role::ALL.into_iter().find(|role| role.name() == text);
    known.ok_or_else(|| "say order, payment, stock or notify".to_owned())
}

/// A time gone by: how long ago, or `@2024-01-15T08:00`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    /// Milliseconds ago.
    Ago(i64),
    /// Epoch ms.
    At(i64),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use super::mq::offsets::Position;
        match text.strip_prefix('@') {
            Some(_) => match text.parse() {
                Ok(Position::Ago(ms)) => Ok(Self::Ago(ms)),
                Ok(Position::At(at_ms)) => Ok(Self::At(at_ms)),
                _ => Err("say how long ago (2h), or a time: @2024-01-15T08:00".to_owned()),
            },
            None => {
                text.parse::<crate::config::Millis>().map(|ago| Self::Ago(ago.ms())).map_err(|error| error.to_string())
            }
        }
    }
}

impl Since {
    pub fn at_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::Ago(ms) => now_ms - ms,
            Self::At(at_ms) => at_ms,
        }
    }
}

/// A row of a log that is read from its newest one on.
pub(super) trait Logged: Sized {
    /// Which rows.
    type Filter;

    fn id(&self) -> i64;

    /// The `limit` newest rows before row `before`, newest first.
    async fn newest(
        conn: &mut AnyConnection,
        filter: &Self::Filter,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError>;
}

impl Logged for outbox::log::Logged {
    type Filter = outbox::log::Filter;

    fn id(&self) -> i64 {
        self.id
    }

    async fn newest(
        conn: &mut AnyConnection,
        filter: &Self::Filter,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        outbox::log::newest(conn, filter, before, limit).await
    }
}

impl Logged for delivery::log::Logged {
    type Filter = delivery::log::Filter;

    fn id(&self) -> i64 {
        self.id
    }

    async fn newest(
        conn: &mut AnyConnection,
        filter: &Self::Filter,
        before: i64,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        delivery::log::newest(conn, filter, before, limit).await
    }
}

/// The logs of several databases as one, newest first, read page by page.
pub(super) struct Newest<'a, T: Logged> {
    filter: T::Filter,
    walks: Vec<Walk<'a, T>>,
}

impl<'a, T: Logged> Newest<'a, T> {
    /// Of what `filter` takes, from before row `before` on.
    pub fn new(parts: &'a [Part], filter: T::Filter, before: i64) -> Self {
        let walk = |part| Walk { part, before, ahead: VecDeque::new(), is_end: false };
        Self { filter, walks: parts.iter().map(walk).collect() }
    }

    /// The next row, with the index of its database; none at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<(usize, T)>> {
        for walk in &mut self.walks {
            walk.fill(&self.filter).await?;
        }
        // Ids grow with time, over all databases.
        let newest = self.walks.iter_mut().enumerate().max_by_key(|(_, walk)| walk.ahead.front().map(Logged::id));
        Ok(newest.and_then(|(index, walk)| Some((index, walk.ahead.pop_front()?))))
    }
}

struct Walk<'a, T> {
    part: &'a Part,
    before: i64,
    ahead: VecDeque<T>,
    is_end: bool,
}

impl<T: Logged> Walk<'_, T> {
    async fn fill(&mut self, filter: &T::Filter) -> anyhow::Result<()> {
        if self.is_end || !self.ahead.is_empty() {
            return Ok(());
        }
        let read = async {
            let mut conn = self.part.db.read().await?;
            T::newest(&mut conn, filter, self.before, PAGE).await
        };
        let page = read.await.with_context(|| format!("cannot read {}", self.part.shown))?;
        self.is_end = page.last().is_none_or(|last| {
            self.before = last.id();
            page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX)
        });
        self.ahead.extend(page);
        Ok(())
    }
}
