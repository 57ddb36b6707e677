//! A channel's statement against what is on record, by the real command.

use std::process::Output;

use ruyi::clock::Clock;
use ruyi::db::payments::{self, PaymentRow, RefundRow, RefundStatus};
use ruyi::db::{Db, Options, migrate};
use ruyi::domain::event::RefundKind;
use ruyi::domain::money::Money;
use ruyi::domain::payment::{PaymentState, Status};
use ruyi::fault::Faults;
use serde_json::{Value, json};

use crate::support::servers::{START_MS, write_tx};

/// 2027-01-15T08:00:00Z.
const DAY: &str = "2027-01-15";

fn payment(id: i64, status: Status, minor: i64) -> PaymentRow {
    PaymentRow {
        id,
        order_id: id,
        order_no: String::new(),
        user_id: 1,
        state: PaymentState {
            status,
            amount: Money::from_minor(minor).unwrap(),
            currency: "CNY".into(),
            merchant_id: 1,
            transaction_no: status.has_money().then(|| format!("T{}", id % 100)),
        },
        channel_id: "sandbox".into(),
        expire_time: 0,
        payment_method: None,
        pay_time: status.has_money().then_some(START_MS),
        trace: None,
    }
}

fn refund(id: i64, payment_id: i64, kind: RefundKind, status: RefundStatus, number: &str) -> RefundRow {
    let (reason, transaction_no, error) = (String::new(), number.to_owned(), None);
    let amount = Money::from_minor(100).unwrap();
    RefundRow { id, payment_id, order_id: payment_id, kind, amount, reason, status, transaction_no, error }
}

struct Statement {
    dir: tempfile::TempDir,
    /// Ids of payments are of their day: this plus 1, 2, ...
    first: i64,
}

impl Statement {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("ruyi.db").display());
        migrate::run(&url).await.unwrap();
        let clock = Clock::manual(START_MS);
        let db = Db::open(&Options { url, max_connections: 2, clock, faults: Faults::none() }).await.unwrap();
        let first = ruyi::domain::id::first_id_of(START_MS, 0) / 100 * 100 + 100;
        let mut rows = vec![
            payment(first + 1, Status::Success, 5_980),
            payment(first + 2, Status::Success, 500),
            payment(first + 3, Status::Pending, 700),
            payment(first + 4, Status::Refunded, 100),
            payment(first + 5, Status::Success, 800),
            payment(first + 6, Status::Success, 900),
        ];
        // Of the day before, and of another channel: not to be missed.
        rows[5].pay_time = Some(START_MS - 86_400_000);
        rows.push(PaymentRow { channel_id: "bank".into(), ..payment(first + 7, Status::Success, 900) });
        let refunds = [
            refund(41, first + 4, RefundKind::Order, RefundStatus::Success, "T4"),
            refund(42, first + 5, RefundKind::Part, RefundStatus::Pending, "T5"),
            refund(43, first + 1, RefundKind::Extra, RefundStatus::Success, "T99"),
        ];
        let done = write_tx!(db, [rows, refunds], |tx| {
            payments::insert(tx, &rows).await?;
            payments::update(tx, &rows.iter().collect::<Vec<_>>()).await?;
            payments::insert_refunds(tx, &refunds).await
        });
        assert_eq!(done.unwrap(), 3);
        db.close().await;
        Self { dir, first }
    }

    fn run(&self, text: &str, more: &[&str]) -> Output {
        let file = self.dir.path().join("statement.csv");
        // `#3` is the third payment.
        let text: String = text
            .split('#')
            .enumerate()
            .map(|(n, part)| {
                if n == 0 {
                    return part.to_owned();
                }
                let (digit, rest) = part.split_at(1);
                format!("{}{rest}", self.first + digit.parse::<i64>().unwrap())
            })
            .collect();
        std::fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ruyi"));
        command.env_clear().current_dir(self.dir.path());
        command.args(["--set", &format!("data_dir={}", self.dir.path().display()), "payment", "reconcile"]);
        command.arg(file).args(["--output", "jsonl", "--date", DAY]).args(more);
        command.output().unwrap()
    }

    fn differences(&self, text: &str) -> (Option<i32>, Vec<Value>) {
        let output = self.run(text, &["--channel", "sandbox"]);
        let rows = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        crate::support::operators::as_promised(&["payment", "reconcile"], &rows);
        (output.status.code(), rows)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_is_named() {
    let statement = Statement::new().await;
    let fine = "type,transactionNo,paymentId,refundId,amount,currency,remark\n\
        PAYMENT,T1,#1,,59.80,CNY,x\n,T2,#2,,5,CNY,\nPAYMENT,T4,#4,,1.00,CNY,\nREFUND,T4,#4,41,1,CNY,\n\
        PAYMENT,T5,#5,,8.0,CNY,\nPAYMENT,T99,#1,,59.80,CNY,twice: it went back\n";
    assert_eq!(statement.differences(fine), (Some(0), vec![]));

    let wrong = "paymentId,transactionNo,amount,currency,type,refundId\n\
        #1,T1,59.81,CNY,,\n#1,T98,59.80,CNY,,\n#2,T2,5.00,USD,,\n#2,T2,5.00,CNY,,\n#3,T3,7.00,CNY,,\n\
        #7,T7,9.00,CNY,,\n5,T8,9.00,CNY,,\n#5,T5,1.00,CNY,REFUND,42\n#5,T5,2.00,CNY,REFUND,44\n#4,T4,2.00,CNY,REFUND,41\n";
    let (code, rows) = statement.differences(wrong);
    assert_eq!(code, Some(1));
    let seen: Vec<(String, Value)> =
        rows.iter().map(|row| (row["difference"].as_str().unwrap().to_owned(), row["line"].clone())).collect();
    let wanted = [
        ("amount", json!(2)),
        ("other_transaction", json!(3)),
        ("currency", json!(4)),
        ("repeated", json!(5)),
        ("not_paid", json!(6)),
        ("unknown", json!(7)),
        ("unknown", json!(8)),
        ("not_refunded", json!(9)),
        ("unknown", json!(10)),
        ("amount", json!(11)),
        ("missing", Value::Null),
        ("missing", Value::Null),
    ];
    assert_eq!(seen, wanted.map(|(name, line)| (name.to_owned(), line)));
    assert_eq!(rows[0]["record"], "SUCCESS 59.80 CNY T1 (sandbox)");
    assert_eq!(rows[0]["statement"], "59.81 CNY");
    assert_eq!(rows[7]["record"], "refund PENDING 1.00 CNY");
    assert_eq!(rows[10]["paymentId"], (statement.first + 4).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_statement_is_refused() {
    let statement = Statement::new().await;
    let header = "transactionNo,paymentId,amount,currency\n";
    for (text, hint) in [
        ("a,b\n1,2\n".to_owned(), "the header has no paymentId"),
        (format!("{header}T1,#1,59.801,CNY\n"), "line 2"),
        (format!("{header}T1,#1,59.80,CNY\nT1,x,59.80,CNY\n"), "line 3"),
        (format!("{header}T1,#1\n"), "line: 2"),
        (format!("type,{header}CHARGE,T1,#1,1,CNY\n"), "type must be PAYMENT or REFUND"),
    ] {
        let output = statement.run(&text, &["--channel", "sandbox"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains(hint), "{hint}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    let output = statement.run(header, &["--channel", "nobody"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
