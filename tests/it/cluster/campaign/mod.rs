//! A campaign of faults at random on a cluster under load: kills, hangs, black holes, locks, failovers, wrong clocks.
//!
//! `RUYI_TEST_FAULTS` says how many strike (1,000 otherwise), `RUYI_TEST_SEED` which ones. A number that the kinds
//! divide, as 18, takes them in turn, so that the shortest campaign has one of each. Every [`STRIKES_A_ROUND`] all is
//! whole again: what was begun ends, each key that was sent has one order, and the audit finds nothing.

mod customers;
mod fault;
mod readiness;
mod report;
mod strike;

use std::time::{Duration, Instant};

use super::survival::{Cases, sample};
use crate::support::clustered_roles::Ended;
use crate::support::number;
use customers::Customers;
use fault::{Strike, strikes};
use readiness::Readiness;
use report::{Outcome, Report};
use strike::Campaign;

const FAULTS: u64 = 1_000;
const STRIKES_A_ROUND: usize = 25;
/// Orders that the demo has to put through while a round lasts, and how many of them at once.
const ORDERS: usize = 600;
const CONCURRENCY: &str = "4";
/// After the end of a fault orders are accepted and every process is ready within so long, or the campaign fails.
///
/// No kind has a longer time of its own, because what takes longer by design is not waited for. A client of RocketMQ
/// comes back to a broker that was away, and gives up one that hangs, when timers of RocketMQ say so, which may be
/// after half a minute; orders are accepted and processes are ready all the time meanwhile, and their events wait. The
/// round ends when each of these has been handled.
const RECOVERY: Duration = Duration::from_secs(15);
/// While something is broken that not every order process needs, an order is accepted at the latest within so long.
/// Shorter faults may fall between two orders of the customers.
const ORDERED: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes hours: a part of scripts/test soak"]
async fn random_faults_lose_and_double_nothing() {
    let Some(campaign) = Campaign::start().await else { return };
    let count = usize::try_from(number("RUYI_TEST_FAULTS").unwrap_or(FAULTS)).unwrap();
    let strikes = strikes(count, number("RUYI_TEST_SEED").unwrap_or(0));
    let mut report = Report::default();
    for (number, strikes) in strikes.chunks(STRIKES_A_ROUND).enumerate() {
        one_round(&campaign, number, strikes, &mut report).await;
    }
    report.judge();
}

/// Faults under load, and then everything has ended as it must.
async fn one_round(campaign: &Campaign, number: usize, strikes: &[Strike], report: &mut Report) {
    let (roles, processes, started) = (&campaign.roles, campaign.names(), Instant::now());
    roles.all_ready().await;
    let name = format!("round-{number}");
    let file = roles.write(&format!("{name}.jsonl"), &sample(ORDERS, number, Cases::NoHurry));
    let args = ["demo", "--external", "--patience", "240s", "--output", "json", "--concurrency", CONCURRENCY];
    let demo = roles.spawn(&[&args[..], &["--orders", &file]].concat());
    let customers = Customers::start(&name, &roles.urls("order"));
    customers.next_accepted().await;

    let readiness = Readiness::watch(&roles.instances);
    for strike in strikes {
        // Whatever fails from here on fails below this line.
        let told = format!("{name}, {}", strike.told(&processes));
        eprintln!("{told}");
        let outcome = strike_and_recover(campaign, strike, &customers, &readiness).await;
        judge(campaign, strike, &told, &outcome, report);
        report.add(strike.kind(), &outcome);
    }
    let last = strikes.last().map(|strike| strike.told(&processes)).unwrap_or_default();
    for answer in readiness.stop().await {
        report.wrong(format!("{name}, after {last}: /readyz of {answer}"));
    }

    let ordered = customers.stop().await;
    let ended = Ended::from(demo.wait_with_output().await.unwrap());
    assert!(ended.ok, "{name}, which ended with {last}: {}\n{}", ended.text(), roles.logs());
    let audit = roles.ruyi(&["audit", "--output", "json"]).await;
    assert!(audit.ok && audit.json()["ok"] == true, "{name}, which ended with {last}: {}", audit.text());
    let owed = campaign.each_key_has_one_order(&name, &ordered.orders).await;
    assert_eq!(owed, Ok(()), "{name}, which ended with {last}");
    eprintln!(
        "{name}: {} strikes, {} orders of the demo, {} of the customers, refused {:?}, {} s",
        strikes.len(),
        ended.json()["orders"],
        ordered.orders.len(),
        ordered.refused,
        started.elapsed().as_secs()
    );
}

/// One or two faults, and then how long it takes until every process is ready and an order is accepted.
async fn strike_and_recover(
    campaign: &Campaign,
    strike: &Strike,
    customers: &Customers,
    readiness: &Readiness,
) -> Outcome {
    readiness.fault_begins(&campaign.worst_answers(&strike.faults));
    let (began, accepted_before) = (Instant::now(), customers.accepted());
    campaign.strike(strike).await;
    let (mended, accepted) = (Instant::now(), customers.accepted() - accepted_before);
    tokio::join!(customers.next_accepted(), campaign.roles.all_ready());
    let recovery = mended.elapsed();
    readiness.fault_is_over();
    Outcome { broken: mended - began, recovery, accepted, wrong_answers: readiness.take_wrong() }
}

/// What a strike is held to.
fn judge(campaign: &Campaign, strike: &Strike, told: &str, outcome: &Outcome, report: &mut Report) {
    let Outcome { broken, recovery, accepted, wrong_answers } = outcome;
    eprintln!("    {accepted} orders in {broken:.1?}, goes on after {recovery:.1?}");
    if *recovery > RECOVERY {
        report.wrong(format!("{told}: goes on only after {recovery:.1?}"));
        eprintln!("{}", campaign.roles.logs());
    }
    let takes_orders = campaign.takes_orders(&campaign.worst_answers(&strike.faults));
    if *accepted == 0 && *broken > ORDERED && takes_orders {
        report.wrong(format!("{told}: no order was accepted in {broken:.1?}"));
    }
    for answer in wrong_answers {
        report.wrong(format!("{told}: /readyz of {answer}"));
    }
}
