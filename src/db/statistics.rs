//! `day_statistics`: payments counted by day.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::{DbError, Dialect, Tx};
use crate::domain::statistics::Type;
use crate::vals;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Day, like 2026-01-31.
    pub date: String,
    /// Product of the gateway; empty for payments of the shop.
    pub product_id: String,
    /// Channel.
    pub channel_id: String,
    /// Tenant of the gateway; empty for payments of the shop.
    pub tenant_id: String,
    /// What is counted.
    pub kind: Type,
}

/// How many, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Payments.
    pub count: i64,
    /// Minor units; 0 where payments are only opened.
    pub money: i64,
    /// The greatest of the extra arguments that came, in the order of text: whichever came last, the same.
    pub extra_arg: String,
}

impl Sum {
    /// Counts one more.
    pub fn add(&mut self, kind: Type, money: i64, extra_arg: &str) {
        self.count += 1;
        self.money += if kind == Type::Success { money } else { 0 };
        if extra_arg > self.extra_arg.as_str() {
            extra_arg.clone_into(&mut self.extra_arg);
        }
    }
}

/// Adds to the sums.
///
/// # Errors
/// The database's.
pub async fn add(tx: &mut Tx, sums: &BTreeMap<Key, Sum>) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let rows: Vec<Vec<Val>> = sums
        .iter()
        .map(|(key, sum)| {
            let (submits, successes) = if key.kind == Type::Submit { (sum.count, 0) } else { (0, sum.count) };
            vals![
                &key.date,
                &key.product_id,
                &key.channel_id,
                &key.tenant_id,
                key.kind.name(),
                submits,
                successes,
                sum.money,
                &sum.extra_arg,
                now_ms,
            ]
        })
        .collect();
    let head = "INSERT INTO day_statistics (stat_date, product_id, channel_id, tenant_id, statistics_type, \
                submit_count, success_count, success_money, extra_arg, updated_at)";
    let added = ["submit_count", "success_count", "success_money"];
    let mut tail = Dialect::of(tx).on_conflict(KEY, &["updated_at"], &added);
    tail.push_str(match tx.dialect() {
        Dialect::MySql => {
            ", extra_arg = CASE WHEN VALUES(extra_arg) > extra_arg THEN VALUES(extra_arg) ELSE extra_arg END"
        }
        Dialect::Sqlite => {
            ", extra_arg = CASE WHEN excluded.extra_arg > extra_arg THEN excluded.extra_arg ELSE extra_arg END"
        }
    });
    sql::insert(tx, head, rows, &tail).await.map(|_| ())
}

const KEY: &str = "stat_date, product_id, channel_id, tenant_id, statistics_type";

/// Statistics of one day, product, channel and tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Day, like 2026-01-31.
    pub date: String,
    /// Product of the gateway.
    pub product_id: String,
    /// Channel.
    pub channel_id: String,
    /// Tenant.
    pub tenant_id: String,
    /// Payments opened.
    pub submit_count: i64,
    /// Payments that have their money.
    pub success_count: i64,
    /// Minor units.
    pub success_money: i64,
    /// What senders counted by beside this.
    pub extra_arg: String,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// First day.
    pub from: String,
    /// Last day.
    pub to: String,
    /// Of this product.
    pub product_id: Option<String>,
    /// Of this channel.
    pub channel_id: Option<String>,
    /// Of this tenant.
    pub tenant_id: Option<String>,
}

/// The lines of a filter after this one (day, product, channel, tenant), up to `limit`, in this order.
///
/// # Errors
/// The database's.
pub async fn lines(
    conn: &mut AnyConnection,
    filter: &Filter,
    after: Option<&[String; 4]>,
    limit: i64,
) -> Result<Vec<Line>, DbError> {
    let mut text = String::from(
        "SELECT stat_date, product_id, channel_id, tenant_id, CAST(SUM(submit_count) AS SIGNED), \
         CAST(SUM(success_count) AS SIGNED), CAST(SUM(success_money) AS SIGNED), MAX(extra_arg) FROM day_statistics \
         WHERE stat_date >= ? AND stat_date <= ?",
    );
    let mut vals = vals![&filter.from, &filter.to];
    let columns =
        [("product_id", &filter.product_id), ("channel_id", &filter.channel_id), ("tenant_id", &filter.tenant_id)];
    for (column, wanted) in columns {
        if let Some(wanted) = wanted {
            text.push_str(&format!(" AND {column} = ?"));
            vals.push(Val::from(wanted));
        }
    }
    if let Some(after) = after {
        text.push_str(" AND (stat_date, product_id, channel_id, tenant_id) > (?, ?, ?, ?)");
        vals.extend(after.iter().map(Val::from));
    }
    text.push_str(
        " GROUP BY stat_date, product_id, channel_id, tenant_id ORDER BY stat_date, product_id, channel_id, tenant_id \
         LIMIT ?",
    );
    vals.push(Val::Int(limit));
    let line = |row: &AnyRow| {
        Ok(Line {
            date: row.text(0)?,
            product_id: row.text(1)?,
            channel_id: row.text(2)?,
            tenant_id: row.text(3)?,
            submit_count: row.int(4)?,
            success_count: row.int(5)?,
            success_money: row.int(6)?,
            extra_arg: row.text(7)?,
        })
    };
    sql::fetch(conn, text, vals).await?.iter().map(line).collect()
}

/// All sums, by key.
///
/// # Errors
/// The database's.
pub async fn all(conn: &mut AnyConnection) -> Result<BTreeMap<Key, Sum>, DbError> {
    let text = format!("SELECT {KEY}, submit_count, success_count, success_money, extra_arg FROM day_statistics");
    let mut found = BTreeMap::new();
    for row in &sql::fetch(conn, text, vec![]).await? {
        let date = row.text(0)?;
        let what = row.text(4)?;
        let kind = Type::from_name(&what).ok_or_else(|| DbError::Row {
            table: "day_statistics",
            key: date.clone(),
            what: format!("unknown type {what:?}"),
        })?;
        let key = Key { date, product_id: row.text(1)?, channel_id: row.text(2)?, tenant_id: row.text(3)?, kind };
        let sum = Sum { count: row.int(5)? + row.int(6)?, money: row.int(7)?, extra_arg: row.text(8)? };
        found.insert(key, sum);
    }
    Ok(found)
}
