//! Pages over several tables of the same shape, one beside the other: those of each database, and of each group.

use std::cmp::Reverse;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::id::parse_id;
use crate::http::Problem;

/// Rows of one page at most.
const SIZE: i64 = 200;

/// Rows that a page number reaches.
const REACH: i64 = 10_000;

/// Which page, as it was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub page: Option<i64>,
    pub size: Option<i64>,
    pub before: Option<String>,
}

/// A page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Its number, from 1; from `before`, where that was given.
    pub page: i64,
    /// Rows that were asked for.
    pub size: i64,
    /// Pass it as `before` to go on; null: that was all.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Each row as something else.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(make).collect(), page: self.page, size: self.size, next: self.next }
    }
}

/// The page that is asked for, checked.
#[derive(Clone, Debug)]
pub(super) struct Window {
    page: i64,
    size: i64,
    before: Option<String>,
}

fn wrong(field: &str, detail: &str) -> Problem {
    Problem::bad_request(format!("{field}: {detail}")).field(field, detail)
}

impl Window {
    /// Of a query.
    pub fn of(ask: &Ask) -> Result<Self, Problem> {
        let (page, size) = (ask.page.unwrap_or(1), ask.size.unwrap_or(20));
        if !(1..=SIZE).contains(&size) {
            return Err(wrong("size", "1 to 200"));
        }
        if page < 1 || page.saturating_mul(size) > REACH {
            return Err(wrong("page", "from 1, over the newest 10,000 rows; go on with before=<next>"));
        }
        Ok(Self { page, size, before: ask.before.clone() })
    }

    /// Rows of each table that the page, and the look whether there is more, need.
    pub fn rows(&self) -> i64 {
        self.page * self.size + 1
    }

    /// The row to go on from, in tables by id.
    pub fn before_id(&self) -> Result<i64, Problem> {
        let read = |text: &String| parse_id("before", text).map_err(|error| wrong("before", &error.to_string()));
        self.before.as_ref().map_or(Ok(i64::MAX), read)
    }

    /// The message to go on from, and the group that had the last row.
    pub fn before_message(&self) -> Result<Option<(String, String)>, Problem> {
        let Some(before) = &self.before else { return Ok(None) };
        let (group, message) = before.split_once('/').ok_or_else(|| wrong("before", "the next of a page"))?;
        Ok(Some((message.to_owned(), group.to_owned())))
    }
}

/// Where a row stands among the others, and what is told of it as `next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Larger ones come first.
    id: (i64, String),
    /// Of one id, in this order.
    group: String,
    next: String,
}

impl Place {
    fn order(&self) -> (Reverse<&(i64, String)>, &str) {
        (Reverse(&self.id), &self.group)
    }
}

/// The place of a row with an id of its own.
pub(super) fn by_id(id: i64) -> Place {
    Place { id: (id, String::new()), group: String::new(), next: id.to_string() }
}

/// The place of a message in a group's inbox.
pub(super) fn by_message(id: &str, group: &str) -> Place {
    Place { id: (0, id.to_owned()), group: group.to_owned(), next: format!("{group}/{id}") }
}

/// One page of all sources: each has its rows in order, and the place to which it was looked through, unless that was to
/// its end.
pub(super) fn merge<T>(window: &Window, sources: Vec<(Vec<T>, Option<Place>)>, place: impl Fn(&T) -> Place) -> Page<T> {
    // Beyond the nearest of these places rows may be missing.
    let mut floor: Option<Place> = None;
    let mut rows: Vec<(Place, T)> = Vec::new();
    for (found, looked_to) in sources {
        // A full source was not looked through to its floor.
        let full = i64::try_from(found.len()).is_ok_and(|count| count >= window.rows());
        if let Some(looked_to) = looked_to.filter(|_| !full)
            && floor.as_ref().is_none_or(|floor| looked_to.order() < floor.order())
        {
            floor = Some(looked_to);
        }
        rows.extend(found.into_iter().map(|row| (place(&row), row)));
    }
    rows.sort_by(|one, other| one.0.order().cmp(&other.0.order()));
    if let Some(floor) = &floor {
        rows.retain(|(place, _)| place.order() <= floor.order());
    }
    let skip = usize::try_from((window.page - 1) * window.size).unwrap_or(usize::MAX);
    let size = usize::try_from(window.size).unwrap_or(1);
    let mut rows = rows.into_iter().skip(skip);
    let taken: Vec<(Place, T)> = rows.by_ref().take(size).collect();
    let more = rows.next().is_some();
    let next = match taken.last() {
        Some((last, _)) if more => Some(last.next.clone()),
        _ => floor.map(|floor| floor.next),
    };
    let items = taken.into_iter().map(|(_, row)| row).collect();
    Page { items, page: window.page, size: window.size, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(page: i64, size: i64) -> Window {
        Window::of(&Ask { page: Some(page), size: Some(size), before: None }).unwrap()
    }

    fn items(page: &Page<i64>) -> (Vec<i64>, Option<&str>) {
        (page.items.clone(), page.next.as_deref())
    }

    #[test]
    fn sources_are_one_list() {
        let sources = || vec![(vec![9, 7, 1], None), (vec![8, 2], None)];
        let page = |number, size| merge(&window(number, size), sources(), |id| by_id(*id));
        assert_eq!(items(&page(1, 2)), (vec![9, 8], Some("8")));
        assert_eq!(items(&page(2, 2)), (vec![7, 2], Some("2")));
        assert_eq!(items(&page(3, 2)), (vec![1], None));
        assert_eq!(items(&page(1, 5)), (vec![9, 8, 7, 2, 1], None));
        assert_eq!(items(&page(9, 2)), (vec![], None));
    }

    #[test]
    fn nothing_is_passed_over_where_a_source_was_not_looked_through() {
        // The first was looked through to 5 and has one row until then; 4 of the second may come after more of the first.
        let sources = vec![(vec![9], Some(by_id(5))), (vec![8, 4], None)];
        assert_eq!(items(&merge(&window(1, 5), sources, |id| by_id(*id))), (vec![9, 8], Some("5")));
        let nothing = vec![(vec![], Some(by_id(5)))];
        assert_eq!(items(&merge(&window(1, 5), nothing, |id: &i64| by_id(*id))), (vec![], Some("5")));
    }

    #[test]
    fn groups_of_one_message_follow_each_other() {
        let place = |row: &(&str, &str)| by_message(row.0, row.1);
        let sources = vec![(vec![("2:E", "b"), ("1:E", "b")], None), (vec![("2:E", "a")], None)];
        let page = merge(&window(1, 2), sources, place);
        assert_eq!((page.items, page.next.as_deref()), (vec![("2:E", "a"), ("2:E", "b")], Some("b/2:E")));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (page, size) in [(0, 20), (-1, 20), (1, 0), (1, 201), (501, 20), (i64::MAX, 2)] {
            let ask = Ask { page: Some(page), size: Some(size), before: None };
            assert_eq!(Window::of(&ask).unwrap_err().status, 400, "{page} {size}");
        }
        let ask = Ask { before: Some("x".into()), ..Ask::default() };
        assert!(Window::of(&ask).unwrap().before_id().is_err() && Window::of(&ask).unwrap().before_message().is_err());
    }
}
