//! What is done to the orders of a run, and what must come of it.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::merchant::Payments;
use crate::support::shop::Shop;

/// Time in which everything comes to rest that does not wait for the payer.
pub const SOON_MS: i64 = 2 * 3_600_000;
/// Time to pay: far longer than [`SOON_MS`] and all that chance adds to it.
const PAY_WITHIN_S: i64 = 2 * 86_400;
/// A callback that comes after that.
const LATE_MS: i64 = 5 * 86_400_000;

/// (SKU, price in minor units, pieces): the last one is scarce.
const SKUS: [(&str, i64, i64); 3] = [("TEA", 2_990, 500), ("CUP", 505, 500), ("RARE", 10_000, 3)];

/// Template of the coupons, and what they take off.
const COUPON: &str = "FIVE";
const COUPON_MINOR: i64 = 500;

/// Something that is done to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Paid, and the channel calls back at once.
    Pay,
    /// Paid, and the channel calls back three times.
    PayRepeated,
    /// Paid under this transaction number: another number is other money.
    PayAs(&'static str),
    /// Paid, but the channel calls back long after the order has timed out.
    PayLate,
    /// Paid, and the channel says so only when it is asked.
    PayUnheard,
    /// The channel reports a wrong amount.
    PayWrongly,
    /// The channel signs wrongly.
    PayForged,
    /// The user cancels.
    Cancel,
    /// So much of the money is to go back, minor units.
    Refund(i64),
    /// Time passes: whatever is not paid times out.
    Wait,
}

/// What the warehouse does with an order, by its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warehouse {
    #[default]
    Sends,
    /// By its answer.
    Refuses,
    /// By a call back.
    RefusesLater,
    /// By its answer, unless the address is changed first.
    RefusesThere,
}

impl Warehouse {
    fn address(self) -> &'static str {
        match self {
            Self::Sends => "5 Bell Street",
            Self::Refuses | Self::RefusesThere => "sandbox:refuse",
            Self::RefusesLater => "sandbox:refuse-later",
        }
    }
}

/// One order, and what is done to it.
#[derive(Clone, Debug)]
pub struct Wish {
    user: i64,
    items: Vec<(&'static str, i64)>,
    hold_s: i64,
    /// Placed with a coupon of 5.00.
    coupon: bool,
    /// What the warehouse thinks of it.
    warehouse: Warehouse,
    commands: Vec<Command>,
}

/// The orders of a run.
#[derive(Clone, Debug)]
pub struct Plan(Vec<Wish>);

impl Plan {
    pub fn random(chance: &mut StdRng) -> Self {
        let menu: [&[Command]; 20] = [
            &[Command::Pay],
            &[Command::Pay],
            &[Command::Pay, Command::Pay],
            &[Command::PayRepeated],
            &[Command::PayAs("T1"), Command::PayAs("T2")],
            &[Command::Pay, Command::PayAs("T1"), Command::PayAs("T1")],
            &[Command::PayLate],
            &[Command::PayLate, Command::Cancel],
            &[Command::PayUnheard],
            &[Command::PayUnheard, Command::Cancel],
            &[Command::PayUnheard, Command::Refund(333)],
            &[Command::PayWrongly],
            &[Command::PayForged],
            &[Command::Cancel],
            &[Command::Pay, Command::Cancel],
            &[Command::Cancel, Command::Pay],
            &[Command::Pay, Command::Refund(333), Command::Refund(501)],
            &[Command::Pay, Command::Refund(101), Command::Cancel, Command::Refund(99)],
            &[Command::PayAs("T1"), Command::Refund(7), Command::PayAs("T2"), Command::Refund(100_000)],
            &[],
        ];
        let count = chance.random_range(3..=8);
        let wishes = (0..count).map(|_| {
            let mut commands = menu[chance.random_range(0..menu.len())].to_vec();
            if chance.random_bool(0.05) {
                commands.push(Command::Wait);
            }
            let mut items = vec![];
            for (sku, _, pieces) in SKUS {
                if chance.random_bool(0.5) {
                    items.push((sku, chance.random_range(1..=3.min(pieces))));
                }
            }
            if items.is_empty() {
                items.push((SKUS[0].0, 1));
            }
            let hold_s = if chance.random_bool(0.3) { 600 } else { 0 };
            let coupon = chance.random_bool(0.4);
            let manners = [Warehouse::Refuses, Warehouse::RefusesLater, Warehouse::RefusesThere];
            let pick = chance.random_range(0..8);
            let warehouse = manners.get(pick).copied().unwrap_or_default();
            Wish { user: chance.random_range(1..=3), items, hold_s, coupon, warehouse, commands }
        });
        Self(wishes.collect())
    }

    /// Orders whose ends do not depend on what comes first.
    pub fn one_of_each() -> Self {
        let wish = |commands: &[Command]| Wish {
            user: 7,
            items: vec![("TEA", 2), ("CUP", 1)],
            hold_s: 0,
            coupon: true,
            warehouse: Warehouse::Sends,
            commands: commands.to_vec(),
        };
        Self(vec![
            wish(&[Command::Pay]),
            wish(&[Command::PayRepeated, Command::PayAs("T2")]),
            wish(&[Command::PayLate]),
            wish(&[Command::PayUnheard]),
            wish(&[Command::PayWrongly]),
            wish(&[Command::Pay, Command::Refund(333), Command::Refund(501), Command::Refund(5_651)]),
            wish(&[Command::Cancel]),
            Wish { hold_s: 86_400, ..wish(&[Command::Pay, Command::Cancel]) },
            Wish { warehouse: Warehouse::Refuses, ..wish(&[Command::Pay]) },
            Wish { warehouse: Warehouse::RefusesLater, ..wish(&[Command::PayRepeated]) },
            Wish { warehouse: Warehouse::RefusesThere, ..wish(&[Command::Pay]) },
            Wish { items: vec![("TEA", 1), ("RARE", 4)], ..wish(&[]) },
            wish(&[]),
        ])
    }
}

/// An order that was placed, and what is known of it from the answers to its user.
#[derive(Debug)]
struct Placed {
    id: String,
    coupon: Option<String>,
    /// Numbers of good transactions whose money comes in the end; "" is the channel's own.
    money: Vec<&'static str>,
    /// The channel was told of this order under its own number.
    submitted: bool,
    late: bool,
    canceled: bool,
    /// A cancel was taken that asks payment first.
    asked: bool,
    /// Refunds that were taken, minor units.
    parts: Vec<i64>,
    /// The commands that they came of.
    refunds: BTreeSet<usize>,
}

impl Placed {
    /// The refund of this command was counted before.
    fn again(&mut self, command: usize) -> bool {
        !self.refunds.insert(command)
    }
}

/// A plan that is being carried out.
pub struct Run {
    wishes: Vec<Wish>,
    placed: Vec<Placed>,
    /// Places of the next commands.
    next: Vec<usize>,
    waited: bool,
    payments: Payments,
}

impl Run {
    pub async fn begin(plan: Plan, shop: &Shop) -> Self {
        let payments = Payments::begin(shop).await;
        for (sku, price, pieces) in SKUS {
            shop.sell(sku, price, pieces).await;
        }
        shop.template(COUPON, json!({})).await;
        let next = vec![0; plan.0.len()];
        Self { wishes: plan.0, placed: vec![], next, waited: false, payments }
    }

    /// Places the next order; false when all are placed.
    pub async fn place_next(&mut self, shop: &mut Shop) -> bool {
        let Some(wish) = self.wishes.get(self.placed.len()) else { return false };
        let address = wish.warehouse.address();
        let mut more = json!({ "holdSeconds": wish.hold_s, "payWithinSeconds": PAY_WITHIN_S, "address": address });
        let coupon = if wish.coupon { Some(shop.coupon(wish.user, COUPON).await) } else { None };
        if let Some(coupon) = &coupon {
            more["couponId"] = json!(coupon);
        }
        let id = shop.place_order(wish.user, &wish.items, more).await;
        if wish.warehouse == Warehouse::RefusesThere {
            // Nobody has paid it yet: it cannot be with the warehouse.
            assert_eq!(shop.send_to(&id, "5 Bell Street").await, StatusCode::OK);
        }
        self.placed.push(Placed {
            id,
            coupon,
            money: vec![],
            submitted: false,
            late: false,
            canceled: false,
            asked: false,
            parts: vec![],
            refunds: BTreeSet::new(),
        });
        true
    }

    /// Places an order or does what comes next to one; false when everything is done.
    pub async fn one_command(&mut self, shop: &mut Shop) -> bool {
        let open: Vec<usize> =
            (0..self.placed.len()).filter(|one| self.next[*one] < self.wishes[*one].commands.len()).collect();
        let missing = self.wishes.len() - self.placed.len();
        let nothing_else = missing == 0 && open.is_empty();
        if nothing_else || shop.chance.random_bool(0.2) {
            return self.payments.step(shop).await || !nothing_else;
        }
        if missing > 0 && (open.is_empty() || shop.chance.random_bool(0.5)) {
            return self.place_next(shop).await;
        }
        let one = open[shop.chance.random_range(0..open.len())];
        let command = self.wishes[one].commands[self.next[one]];
        self.carry_out(shop, one, command).await;
        true
    }

    async fn carry_out(&mut self, shop: &mut Shop, one: usize, command: Command) {
        let order = self.placed[one].id.clone();
        let (sandbox, transaction, good) = match command {
            Command::Cancel => {
                let status = shop.cancel(&order).await;
                let known = [StatusCode::OK, StatusCode::ACCEPTED, StatusCode::CONFLICT];
                assert!(known.contains(&status), "cancel {order}: {status}");
                self.placed[one].canceled |= status == StatusCode::OK;
                self.placed[one].asked |= status == StatusCode::ACCEPTED;
                self.next[one] += 1;
                return;
            }
            Command::Refund(minor) => {
                // Half of them again, as if the answer had been lost.
                for _ in 0..shop.chance.random_range(1..=2) {
                    let status = shop.refund(&order, &format!("r{}", self.next[one]), minor).await.0;
                    assert!(matches!(status, StatusCode::ACCEPTED | StatusCode::CONFLICT), "refund {order}: {status}");
                    if status == StatusCode::ACCEPTED && !self.placed[one].again(self.next[one]) {
                        self.placed[one].parts.push(minor);
                    }
                }
                self.next[one] += 1;
                return;
            }
            Command::Wait => {
                shop.clock.advance_ms((PAY_WITHIN_S + 60) * 1_000);
                self.waited = true;
                self.next[one] += 1;
                return;
            }
            Command::Pay => (json!({}), "", true),
            Command::PayRepeated => (json!({ "repeat": 3 }), "", true),
            Command::PayAs(number) => (json!({ "transactionNo": number }), number, true),
            Command::PayLate => (json!({ "delayMs": LATE_MS }), "", true),
            Command::PayUnheard => (json!({ "silent": true }), "", true),
            Command::PayWrongly => (json!({ "amountDelta": 1 }), "", false),
            Command::PayForged => (json!({ "badSignature": true }), "", false),
        };
        let status = shop.pay(&order, sandbox).await;
        if status == StatusCode::NOT_FOUND && !self.is_over(shop, &order).await {
            // Not payable yet: this command comes again.
            return;
        }
        self.next[one] += 1;
        assert!(
            matches!(status, StatusCode::ACCEPTED | StatusCode::CONFLICT | StatusCode::NOT_FOUND),
            "pay {order}: {status}"
        );
        let placed = &mut self.placed[one];
        if status == StatusCode::ACCEPTED {
            // A payment is submitted once under the channel's own number.
            let news = !transaction.is_empty() || !placed.submitted;
            placed.submitted |= transaction.is_empty();
            if good && news && !placed.money.contains(&transaction) {
                placed.money.push(transaction);
                placed.late |= command == Command::PayLate;
            }
        }
    }

    async fn is_over(&self, shop: &Shop, order: &str) -> bool {
        shop.outcome(order).await != "OPEN"
    }

    /// Compares what came of the orders with what must have come of them.
    pub async fn check(&self, shop: &Shop) {
        self.payments.check(shop).await;
        let told = shop.told().await;
        let mut sold: BTreeMap<&str, i64> = BTreeMap::new();
        let mut points: BTreeMap<i64, i64> = BTreeMap::new();
        for (wish, placed) in self.wishes.iter().zip(&self.placed) {
            let seen = shop.order(&placed.id).await;
            let outcome = seen["outcome"].as_str().unwrap();
            let about = format!("{wish:?} {placed:?} {seen}");
            assert!(self.allowed(wish, placed, &seen).contains(&outcome), "{about}");
            if outcome == "SIGNED" {
                for (sku, pieces) in &wish.items {
                    *sold.entry(sku).or_default() += pieces;
                }
                let (total, back) = (total(wish), placed.parts.iter().sum::<i64>());
                *points.entry(wish.user).or_default() += total / 100 - (total / 100) * back / total;
            }
            let none = vec![];
            check_told(outcome, placed, told.get(&placed.id).unwrap_or(&none), &about);
            check_money(shop, outcome, placed, &about).await;
            if let Some(coupon) = &placed.coupon {
                let used = ("USED".to_owned(), Some(placed.id.clone()));
                let wanted = if outcome == "SIGNED" { used } else { ("AVAILABLE".to_owned(), None) };
                assert_eq!(shop.coupon_state(wish.user, coupon).await, wanted, "{about}");
            }
        }
        for (sku, _, pieces) in SKUS {
            let sold = sold.get(sku).copied().unwrap_or(0);
            assert_eq!(shop.stock(sku).await, (pieces - sold, 0, sold), "{sku}");
        }
        for user in 1..=3 {
            assert_eq!(shop.points(user).await, points.get(&user).copied().unwrap_or(0), "points of user {user}");
        }
    }

    /// How an order may end.
    fn allowed(&self, wish: &Wish, placed: &Placed, seen: &Value) -> &'static [&'static str] {
        if seen["cancelType"] == "STOCK" {
            let scarce = wish.items.iter().any(|(sku, _)| {
                let wanted =
                    |wish: &Wish| wish.items.iter().filter(|item| item.0 == *sku).map(|item| item.1).sum::<i64>();
                let pieces = SKUS.iter().find(|one| one.0 == *sku).map_or(0, |one| one.2);
                self.wishes.iter().map(wanted).sum::<i64>() > pieces
            });
            assert!(scarce && placed.money.is_empty(), "refused for want of stock: {wish:?}");
            return &["CANCELED"];
        }
        if matches!(wish.warehouse, Warehouse::Refuses | Warehouse::RefusesLater) && !placed.money.is_empty() {
            // By the warehouse, or whatever came first.
            return &["REFUNDED"];
        }
        match (placed.money.is_empty(), placed.canceled || placed.late) {
            (true, _) => &["CANCELED"],
            // A cancel that was taken, or the timeout before the money came.
            (false, true) if placed.canceled || placed.money.len() == 1 => &["REFUNDED"],
            // Time was let pass: the callback, or the timeout, came first. Or the news of the money and the warehouse were
            // faster than payment's answer to a cancel.
            (false, _) if self.waited || placed.late || placed.asked => &["SIGNED", "REFUNDED"],
            (false, _) => &["SIGNED"],
        }
    }

    /// What came of everything, without what changes from run to run.
    pub async fn summary(&self, shop: &Shop) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([("payments".to_owned(), self.payments.check(shop).await.join(", "))]);
        let told = shop.told().await;
        for (number, placed) in self.placed.iter().enumerate() {
            let seen = shop.order(&placed.id).await;
            let payment = shop.payment(&placed.id).await.map(|payment| payment["status"].clone());
            let refunds = shop.refunds(&placed.id).await;
            let what = format!(
                "{} {} {} {payment:?} {refunds:?} {:?}",
                seen["status"],
                seen["outcome"],
                seen["cancelType"],
                told.get(&placed.id)
            );
            all.insert(format!("order {number}"), what);
            if let Some(coupon) = &placed.coupon {
                all.insert(format!("coupon {number}"), shop.coupon_state(7, coupon).await.0);
            }
        }
        for (sku, _, _) in SKUS {
            all.insert(sku.to_owned(), format!("{:?}", shop.stock(sku).await));
        }
        all.insert("points".to_owned(), shop.points(7).await.to_string());
        all
    }
}

fn total(wish: &Wish) -> i64 {
    let price = |sku: &str| SKUS.iter().find(|one| one.0 == sku).map_or(0, |one| one.1);
    wish.items.iter().map(|(sku, pieces)| price(sku) * pieces).sum::<i64>() - if wish.coupon { COUPON_MINOR } else { 0 }
}

/// Everybody was told what happened to his order, once.
fn check_told(outcome: &str, placed: &Placed, told: &[String], about: &str) {
    let back = placed.money.len().saturating_sub(usize::from(outcome == "SIGNED"));
    let parts = told.iter().filter(|one| *one == "ORDER_REFUNDED").count().saturating_sub(back);
    // A part that was overtaken by the cancel went back with the rest.
    assert!(parts == placed.parts.len() || (outcome == "REFUNDED" && parts <= placed.parts.len()), "{about}");
    let mut wanted: Vec<&str> = vec!["ORDER_REFUNDED"; back + parts];
    match outcome {
        "SIGNED" => wanted.extend([
            "ORDER_DELIVERY",
            "ORDER_FULFILL_SUCCESS",
            "ORDER_OUT_STOCK",
            "ORDER_PAY_SUCCESS",
            "ORDER_SIGNED",
        ]),
        _ => wanted.push("ORDER_CANCELED"),
    }
    if outcome == "REFUNDED" && told.iter().any(|one| one == "ORDER_PAY_SUCCESS") {
        // Paid before it was canceled.
        wanted.push("ORDER_PAY_SUCCESS");
    }
    wanted.sort_unstable();
    assert_eq!(told, wanted, "{about}");
}

/// All money that is not the price of a signed order went back, each transaction once.
async fn check_money(shop: &Shop, outcome: &str, placed: &Placed, about: &str) {
    let done = |kind: &str| (kind.to_owned(), "SUCCESS".to_owned());
    let mut wanted = vec![done("EXTRA"); placed.money.len().saturating_sub(1)];
    if outcome == "REFUNDED" {
        wanted.push(done("ORDER"));
    }
    let mut found = shop.refunds(&placed.id).await;
    let all = found.len();
    found.retain(|(kind, _)| kind != "PART");
    assert_eq!(found, wanted, "{about}");
    let seen = shop.refunds_of(&placed.id).await;
    let back = seen["refundedAmount"].as_f64().unwrap() * 100.0;
    let parts: i64 = placed.parts.iter().sum();
    match outcome {
        "SIGNED" => {
            assert_eq!((all - wanted.len(), back.round() as i64), (placed.parts.len(), parts), "{about} {seen}");
        }
        // All of it, in whichever parts.
        "REFUNDED" => assert_eq!(seen["refundedAmount"], seen["totalAmount"], "{about} {seen}"),
        _ => assert_eq!((all, parts), (0, 0), "{about} {seen}"),
    }
}
