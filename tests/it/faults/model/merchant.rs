//! A merchant's own payments, beside the orders: opened, one of them closed, a part of another given back.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use rand::RngExt;
use serde_json::{Value, json};

use crate::support::merchant_accounts::merchant;
use crate::support::shop::Shop;

const NUMBERS: [&str; 3] = ["M-0", "M-1", "M-2"];
const OPENED: usize = NUMBERS.len();

/// How far the merchant has got.
pub struct Payments {
    done: usize,
    closed: bool,
}

impl Payments {
    pub async fn begin(shop: &Shop) -> Self {
        merchant(shop, 9, json!({})).await;
        Self { done: 0, closed: false }
    }

    /// Does what comes next, where that is possible yet; false when everything is done.
    pub async fn step(&mut self, shop: &mut Shop) -> bool {
        let path = |number: &str, what: &str| format!("/merchants/9/payments/{number}/{what}");
        let (path, key, body) = match self.done {
            n if n < OPENED => {
                let body = json!({ "merchantId": "9", "outOrderNo": NUMBERS[n], "amount": 59.8, "productId": "h5",
                    "channelId": "sandbox" });
                ("/payments".to_owned(), None, body)
            }
            OPENED => (path("M-2", "close"), None, json!({})),
            n if n == OPENED + 1 => (path("M-1", "refund"), Some("r1"), json!({ "amount": 9.8 })),
            _ => return false,
        };
        // Half of them again, as if the answer had been lost.
        for _ in 0..shop.chance.random_range(1..=2) {
            let status = shop.insist(Method::POST, &path, key, Some(body.clone())).await.0;
            match status {
                StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => {
                    self.closed |= self.done == OPENED;
                }
                // The merchant is not known yet; it is not paid yet.
                StatusCode::NOT_FOUND if self.done < OPENED => return true,
                StatusCode::CONFLICT if self.done > OPENED => return true,
                // It is paid already.
                StatusCode::CONFLICT if self.done == OPENED => {}
                other => panic!("{path}: {other}"),
            }
        }
        self.done += 1;
        if self.done == OPENED && shop.chance.random_bool(0.5) {
            // Closed before its channel hears of it.
            return Box::pin(self.step(shop)).await;
        }
        true
    }

    /// What must have come of it, and how it ended.
    pub async fn check(&self, shop: &Shop) -> Vec<String> {
        let mut ends = Vec::new();
        for number in NUMBERS {
            let (_, seen) = shop.request(Method::GET, &format!("/merchants/9/payments/{number}"), None, None).await;
            let status = seen["status"].as_str().unwrap().to_owned();
            let refunds: Vec<(Value, Value)> = seen["refunds"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| (one["status"].clone(), one["amount"].clone()))
                .collect();
            let (wanted, told): (Vec<f64>, &[&str]) = match (number, status.as_str()) {
                ("M-1", "SUCCESS") => (vec![9.8], &["PAID", "PART_REFUNDED"]),
                ("M-2", "CLOSED") if self.closed => (vec![], &[]),
                ("M-2", "REFUNDED") if self.closed => (vec![59.8], &["REFUNDED"]),
                ("M-0", "SUCCESS") => (vec![], &["PAID"]),
                ("M-2", "SUCCESS") if !self.closed => (vec![], &["PAID"]),
                _ => panic!("{number}: {seen}, closed {}", self.closed),
            };
            let wanted: Vec<(Value, Value)> =
                wanted.into_iter().map(|amount| (json!("SUCCESS"), json!(amount))).collect();
            assert_eq!(refunds, wanted, "{seen}");
            assert_eq!(news(shop, number), told.iter().map(|text| (*text).to_owned()).collect(), "{seen}");
            ends.push(format!("{number} {status}"));
        }
        ends
    }
}

/// What was told of a payment. A call that is made again says the same.
fn news(shop: &Shop, number: &str) -> BTreeSet<String> {
    let news = shop.news.lock().unwrap();
    let of = news.iter().filter(|(_, body)| body["data"]["out_order_no"] == number);
    of.map(|(_, body)| body["data"]["status"].as_str().unwrap().to_owned()).collect()
}
