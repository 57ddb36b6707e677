//! The cluster of a campaign, what strikes it, and what customers have in it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Row as _};
use tokio::time::sleep;

use super::fault::{Fault, Kind, Row, Strike};
use super::readiness::Answer;
use crate::support::clustered_roles::{Instance, RoleCluster, RolePlan, database_of};
use crate::support::probe::unpaid_order;
use crate::support::proxy::{Flow, Proxy};

/// Processes of each role, and of each worker.
const INSTANCES: usize = 2;
/// How long each piece of what a slow database says is on its way.
const SLOW: Duration = Duration::from_millis(40);

/// The cluster, and what stands between its processes and their databases.
pub struct Campaign {
    pub roles: RoleCluster,
    /// Those of the databases, in the order of the roles.
    proxies: Vec<Proxy>,
}

impl Campaign {
    pub async fn start() -> Option<Self> {
        let plan = RolePlan::on_mariadb().await?;
        let mut plan = RolePlan { instances: INSTANCES, workers: INSTANCES, clocks: true, ..plan };
        let mut proxies = Vec::new();
        for url in &mut plan.databases {
            let proxy = Proxy::to(plan.mariadb.as_ref()?.port()).await;
            *url = proxy.url(url);
            proxies.push(proxy);
        }
        Some(Self { roles: RoleCluster::start(plan).await?, proxies })
    }

    /// The names of its processes.
    pub fn names(&self) -> Vec<String> {
        self.roles.instances.iter().map(|instance| instance.name.clone()).collect()
    }

    /// What `/readyz` of each process may answer at worst while these faults last.
    pub fn worst_answers(&self, faults: &[Fault]) -> Vec<Answer> {
        let names = self.names();
        let worst_of = |(place, name): (usize, &String)| {
            let answers = faults.iter().map(|fault| fault.worst_answer(name, place, names.len()));
            answers.max().unwrap_or(Answer::Ready)
        };
        names.iter().enumerate().map(worst_of).collect()
    }

    /// Whether there is a process that takes orders and that no fault concerns, given what each may answer.
    pub fn takes_orders(&self, worst_answers: &[Answer]) -> bool {
        let processes = self.roles.instances.iter().zip(worst_answers);
        let mut order_processes = processes.filter(|(instance, _)| instance.name.starts_with("order-"));
        order_processes.any(|(_, worst)| *worst == Answer::Ready)
    }

    /// Breaks what a strike breaks, and mends it; of two faults the second is over first.
    pub async fn strike(&self, strike: &Strike) {
        match strike.faults[..] {
            [fault] => self.break_and_mend(fault, strike.lasts).await,
            [longer, shorter] => {
                let other = self.break_and_mend(shorter, strike.lasts / 2);
                tokio::join!(self.break_and_mend(longer, strike.lasts), other);
            }
            _ => unreachable!("one or two"),
        }
    }

    fn process(&self, fault: Fault) -> &Instance {
        let instances = &self.roles.instances;
        &instances[fault.process(instances.len())]
    }

    async fn break_and_mend(&self, fault: Fault, lasts: Duration) {
        let proxy = &self.proxies[fault.database()];
        match fault.kind {
            Kind::ProcessKilled => {
                self.process(fault).kill();
                if fault.stays_away() {
                    sleep(lasts).await;
                }
                self.process(fault).start_again();
            }
            Kind::ProcessHangs => {
                self.process(fault).freeze();
                sleep(lasts).await;
                self.process(fault).thaw();
            }
            Kind::ConnectionsFrozen | Kind::AnswersLost => {
                proxy.set_present(if fault.kind == Kind::AnswersLost { Flow::Mute } else { Flow::Frozen });
                sleep(lasts).await;
                proxy.set_present(if fault.ends_in_a_cut() { Flow::Cut } else { Flow::Open });
            }
            Kind::DatabaseFrozen | Kind::DatabaseSlow => {
                proxy.set_all(if fault.kind == Kind::DatabaseSlow { Flow::Slow(SLOW) } else { Flow::Frozen });
                sleep(lasts).await;
                proxy.set_all(Flow::Open);
            }
            Kind::ConnectionsCut => {
                proxy.set_present(Flow::Cut);
            }
            Kind::DatabaseKilled => {
                self.roles.mariadb().kill();
                sleep(lasts).await;
                self.roles.mariadb().start_again().await;
            }
            Kind::DatabaseReadOnly => {
                self.read_only(true).await;
                sleep(lasts).await;
                self.read_only(false).await;
            }
            Kind::RowLocked => self.lock_newest(fault.row(), lasts).await,
            Kind::CacheKilled => {
                self.roles.redis.kill();
                sleep(lasts).await;
                self.roles.redis.start_again().await;
            }
            Kind::CacheHangs => {
                self.roles.redis.freeze();
                sleep(lasts).await;
                self.roles.redis.go_on();
            }
            Kind::CacheEmptied => self.roles.redis.flush().await,
            Kind::BrokerKilled => {
                self.roles.rocketmq.kill_broker(fault.broker());
                sleep(lasts).await;
                self.roles.rocketmq.start_broker(fault.broker()).await;
            }
            Kind::BrokerHangs => {
                self.roles.rocketmq.freeze_broker(fault.broker());
                sleep(lasts).await;
                self.roles.rocketmq.thaw_broker(fault.broker());
            }
            Kind::NameServerKilled => {
                self.roles.rocketmq.kill_namesrv(fault.name_server());
                sleep(lasts).await;
                self.roles.rocketmq.start_namesrv(fault.name_server()).await;
            }
            Kind::ClockAhead | Kind::ClockBehind => {
                self.process(fault).set_clock(fault.wrong_by_s());
                sleep(lasts).await;
                self.process(fault).set_clock(0);
            }
        }
    }

    /// New sessions can only read, and those that are there end; or new ones can write again.
    async fn read_only(&self, is_on: bool) {
        let mut conn = self.roles.mariadb().connect("mysql").await;
        let set = if is_on { "SET GLOBAL tx_read_only = 1" } else { "SET GLOBAL tx_read_only = 0" };
        sqlx::raw_sql(set).execute(&mut conn).await.unwrap();
        if is_on {
            let text = "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST \
                        WHERE ID <> CONNECTION_ID() AND DB LIKE 'ruyi%'";
            for row in sqlx::query(text).fetch_all(&mut conn).await.unwrap() {
                let kill = format!("KILL {}", row.get::<i64, _>(0));
                // It may have ended by itself.
                let _ = sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut conn).await;
            }
        }
        conn.close().await.unwrap();
    }

    /// A session from outside holds the newest row of a table.
    async fn lock_newest(&self, Row { role, table, key }: Row, lasts: Duration) {
        let mut conn = self.roles.mariadb().connect(&database_of(role)).await;
        let newest = format!("(SELECT MAX({key}) FROM {table})");
        let text = format!("START TRANSACTION; SELECT {key} FROM {table} WHERE {key} = {newest} FOR UPDATE");
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut conn).await.unwrap();
        sleep(lasts).await;
        // Whoever kills the server meanwhile has freed it.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut conn).await;
    }

    /// The orders of all keys that begin so, of those customers who order what nobody pays.
    pub async fn orders_of(&self, name: &str) -> Vec<(String, String)> {
        let user = unpaid_order()["userId"].as_str().expect("a user").to_owned();
        let mut conn = self.roles.mariadb().connect(&database_of("order")).await;
        let text = "SELECT idempotency_key, id FROM orders WHERE idempotency_key LIKE ?";
        let rows = sqlx::query(text).bind(format!("{user}:{name}-%")).fetch_all(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let order_of = |row: &sqlx::any::AnyRow| {
            let stored_key: String = row.get(0);
            // The key of a user is stored behind the user.
            (stored_key[user.len() + 1..].to_owned(), row.get::<i64, _>(1).to_string())
        };
        rows.iter().map(order_of).collect()
    }

    /// Each key has the one order that its sender was told of, and there is no other.
    pub async fn each_key_has_one_order(&self, name: &str, told: &BTreeMap<String, String>) -> Result<(), String> {
        let mut missing = told.clone();
        let mut others = Vec::new();
        for (key, order) in self.orders_of(name).await {
            if missing.remove(&key).is_none_or(|known| known != order) {
                others.push(format!("{key}: {order}, and its sender was told {:?}", told.get(&key)));
            }
        }
        if missing.is_empty() && others.is_empty() {
            return Ok(());
        }
        Err(format!("accepted orders that are not there: {missing:?}; orders that nobody was told of: {others:?}"))
    }
}
