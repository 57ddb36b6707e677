//! The orders that a text finds and a filter leaves, newest first. A SKU may be in every order, and a user may have very
//! many, but rarely both: so two walks take turns, one over what the text finds, one over what the filter leaves. Each
//! of them finds all that is asked for, and the one that is through first has read the least.

use std::collections::{BTreeSet, HashSet};

use sqlx::AnyConnection;

use super::{Search, from_row, select, with_term};
use crate::db::DbError;
use crate::db::page;
use crate::db::sql::{self, Columns, Val};
use crate::domain::event::OrderDataSync;

/// Orders that are read at once.
const STEP: usize = 256;

/// Which of some orders have a term: up to their ids.
pub(in crate::db) const OF_TERM: &str = "SELECT order_id FROM order_view_term WHERE term = ? AND order_id";

/// What a text finds.
pub(super) struct Matching {
    /// The term of a SKU.
    pub term: String,
    /// Orders that it finds in another way.
    pub others: BTreeSet<i64>,
}

/// How far a walk is.
struct Walk {
    found: Vec<OrderDataSync>,
    /// Orders from here on were looked at.
    before: i64,
    is_through: bool,
}

/// The newest of these orders, up to the limit of the search.
pub(super) async fn both_ways(
    conn: &mut AnyConnection,
    search: &Search,
    matching: &Matching,
) -> Result<Vec<OrderDataSync>, DbError> {
    let before = search.to_ms.map_or(search.before_id, |at_ms| search.before_id.min(page::highest_of(at_ms)));
    let begin = || Walk { found: Vec::new(), before, is_through: false };
    let (mut of_text, mut of_filter) = (begin(), begin());
    let enough = usize::try_from(search.limit).unwrap_or(0);
    let mut through = loop {
        if search.user_id.is_some() || search.status.is_some() {
            of_filter.over_filter(conn, search, matching).await?;
            if of_filter.is_through || of_filter.found.len() >= enough {
                break of_filter;
            }
        }
        of_text.over_text(conn, search, matching).await?;
        if of_text.is_through || of_text.found.len() >= enough {
            break of_text;
        }
    };
    through.found.truncate(enough);
    Ok(through.found)
}

impl Walk {
    /// One step over what the text finds.
    async fn over_text(
        &mut self,
        conn: &mut AnyConnection,
        search: &Search,
        matching: &Matching,
    ) -> Result<(), DbError> {
        let some = with_term(conn, &matching.term, self.before, STEP).await?;
        let more = matching.others.range(..self.before).rev().take(STEP).copied().collect::<Vec<_>>();
        // Down to here both are complete.
        let ends = [&some, &more].map(|ids| if ids.len() == STEP { ids.last().copied().unwrap_or(0) } else { 0 });
        let floor = ends.into_iter().max().unwrap_or(0);
        let ids: BTreeSet<i64> = some.into_iter().chain(more).filter(|id| *id >= floor).collect();
        let filters = search.wanted(self.before);
        let head = format!("{}{} AND id", select(), filters.text);
        let keys = ids.into_iter().map(Val::Int).collect();
        let rows = sql::select_in(conn, &head, "", &filters.vals, keys).await?;
        let mut rows = rows.iter().map(from_row).collect::<Result<Vec<_>, _>>()?;
        rows.sort_by_key(|row| std::cmp::Reverse(row.order_id));
        self.found.extend(rows);

        self.before = floor;
        self.is_through = floor <= search.from_ms.map_or(0, page::lowest_of);
        Ok(())
    }

    /// One step over what the filter leaves.
    async fn over_filter(
        &mut self,
        conn: &mut AnyConnection,
        search: &Search,
        matching: &Matching,
    ) -> Result<(), DbError> {
        let (text, vals) = search.wanted(self.before).statement(&select(), STEP as i64);
        let rows = sql::fetch(conn, text, vals).await?;
        let rows = rows.iter().map(from_row).collect::<Result<Vec<_>, _>>()?;
        let keys = rows.iter().map(|row| Val::Int(row.order_id.0)).collect();
        let of_term = sql::select_in(conn, OF_TERM, "", &[Val::Text(matching.term.clone())], keys).await?;
        let of_term = of_term.iter().map(|row| row.int(0)).collect::<Result<HashSet<_>, _>>()?;

        self.is_through = rows.len() < STEP;
        self.before = rows.last().map_or(0, |last| last.order_id.0);
        let is_meant = |id: &i64| of_term.contains(id) || matching.others.contains(id);
        self.found.extend(rows.into_iter().filter(|row| is_meant(&row.order_id.0)));
        Ok(())
    }
}
