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

use crate::support::role_books::execute;
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
            payments::insert_refunds(tx, &refunds).await?.all()
        });
        done.unwrap();
        db.close().await;
        Self { dir, first }
    }

    /// This refund was asked for before the day began, and done on it.
    async fn asked_on_the_day_before(&self, refund_id: i64) {
        let asked_at = START_MS - 86_400_000;
        self.change(format!("UPDATE refund_record SET created_at = {asked_at} WHERE id = {refund_id}")).await;
    }

    /// Changes one row.
    async fn change(&self, text: String) {
        let url = format!("sqlite://{}", self.dir.path().join("ruyi.db").display());
        let (clock, faults) = (Clock::manual(START_MS), Faults::none());
        let db = Db::open(&Options { url, max_connections: 2, clock, faults }).await.unwrap();
        assert_eq!(execute(&db, text).await, 1);
        db.close().await;
    }

    /// With `#3` for the id of the third payment.
    fn with_ids(&self, text: &str) -> String {
        (0..10).fold(text.to_owned(), |text, n| text.replace(&format!("#{n}"), &(self.first + n).to_string()))
    }

    fn run(&self, text: &str, more: &[&str]) -> Output {
        self.run_bytes(self.with_ids(text).as_bytes(), more)
    }

    fn run_bytes(&self, bytes: &[u8], more: &[&str]) -> Output {
        let file = self.dir.path().join("statement.csv");
        std::fs::write(&file, bytes).unwrap();
        self.command(&file).args(more).output().unwrap()
    }

    fn command(&self, file: &std::path::Path) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ruyi"));
        command.env_clear().current_dir(self.dir.path());
        let data_dir = format!("data_dir={}", self.dir.path().display());
        command.args(["payment", "reconcile", "--set", &data_dir]);
        command.arg(file).args(["--output", "jsonl", "--date", DAY]);
        command
    }

    fn differences(&self, text: &str) -> (Option<i32>, Vec<Value>) {
        let (code, rows, _) = told(self.run(text, &["--channel", "sandbox"]));
        (code, rows)
    }
}

/// (exit code, rows as their schema says, what stderr says).
fn told(output: Output) -> (Option<i32>, Vec<Value>, String) {
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    crate::support::operators::as_promised(&["payment", "reconcile"], &rows);
    (output.status.code(), rows, String::from_utf8(output.stderr).unwrap())
}

/// What differs, and in which line.
fn named(rows: &[Value]) -> Vec<(&str, Value)> {
    rows.iter().map(|row| (row["difference"].as_str().unwrap(), row["line"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_is_named() {
    let statement = Statement::new().await;
    let fine = "type,transactionNo,paymentId,refundId,amount,currency,remark\n\
        PAYMENT,T1,#1,,59.80,CNY,x\n,T2,#2,,5,CNY,\nPAYMENT,T4,#4,,1.00,CNY,\nREFUND,T4,#4,41,1,CNY,\n\
        PAYMENT,T5,#5,,8.0,CNY,\nPAYMENT,T99,#1,,59.80,CNY,twice: it went back\nREFUND,T99,#1,43,1.00,CNY,\n";
    assert_eq!(statement.differences(fine), (Some(0), vec![]));

    let wrong = "paymentId,transactionNo,amount,currency,type,refundId\n\
        #1,T1,59.81,CNY,,\n#1,T98,59.80,CNY,,\n#2,T2,5.00,USD,,\n#2,T2,5.00,CNY,,\n#3,T3,7.00,CNY,,\n\
        #7,T7,9.00,CNY,,\n5,T8,9.00,CNY,,\n#5,T5,1.00,CNY,REFUND,42\n#5,T5,2.00,CNY,REFUND,44\n#4,T4,2.00,CNY,REFUND,41\n";
    let (code, rows) = statement.differences(wrong);
    assert_eq!(code, Some(1));
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
        ("missing", Value::Null),
    ];
    assert_eq!(named(&rows), wanted);
    assert_eq!(rows[0]["record"], "SUCCESS 59.80 CNY T1 (sandbox)");
    assert_eq!(rows[0]["statement"], "59.81 CNY");
    assert_eq!(rows[7]["record"], "refund PENDING 1.00 CNY");
    assert_eq!(rows[10]["paymentId"], (statement.first + 4).to_string());
}

/// Numbers are the same with blanks around them, whether the statement has these or a row of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blanks_around_numbers_do_not_differ() {
    let statement = Statement::new().await;
    statement.change("UPDATE payment_record SET transaction_no = 'T1 ' WHERE transaction_no = 'T1'".to_owned()).await;
    statement.change("UPDATE refund_record SET transaction_no = ' T99' WHERE transaction_no = 'T99'".to_owned()).await;
    let padded = "type,transactionNo,paymentId,refundId,amount,currency\nPAYMENT, `T1 , #1,,59.80,CNY\n\
        PAYMENT,T2\t,'#2 ,,5,CNY\nPAYMENT,T4 ,#4,,1.00,CNY\nREFUND,T4,#4, 41,1,CNY\nPAYMENT, T5,#5,,8.0,CNY\n\
        PAYMENT,T99 ,#1,,59.80,CNY\nREFUND,T99,#1,43,1.00,CNY\n";
    assert_eq!(statement.differences(padded), (Some(0), vec![]));
    let twice = statement.differences(&format!("{padded}PAYMENT,T1,#1,,59.80,CNY\n"));
    assert_eq!((twice.0, named(&twice.1)), (Some(1), vec![("repeated", json!(9))]));
}

const HEADER: &str = "type,transactionNo,paymentId,refundId,amount,currency,remark";
/// The payments and refunds of the day but the first payment.
const OTHERS: &str = "PAYMENT,T2,#2,,5.00,CNY,\nPAYMENT,T4,#4,,1.00,CNY,\nREFUND,T4,#4,41,1.00,CNY,\n\
    PAYMENT,T5,#5,,8.00,CNY,\nREFUND,T99,#1,43,1.00,CNY,\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_that_a_statement_lacks_are_missing() {
    let statement = Statement::new().await;
    let (code, rows) = statement.differences(&format!(
        "{HEADER}\nPAYMENT,T1,#1,,59.80,CNY,\nPAYMENT,T2,#2,,5.00,CNY,\nPAYMENT,T4,#4,,1.00,CNY,\n\
         PAYMENT,T5,#5,,8.00,CNY,\nREFUND,R-of-the-channel,#1,43,1.00,CNY,\nREFUND,R-again,#1,43,1.00,CNY,\n"
    ));
    assert_eq!((code, named(&rows)), (Some(1), vec![("repeated", json!(7)), ("missing", Value::Null)]));
    assert_eq!((&rows[1]["type"], &rows[1]["refundId"]), (&json!("REFUND"), &json!("41")));
    assert_eq!(rows[1]["record"], "refund SUCCESS 1.00 CNY");

    // Told on this day, and asked for on the day before: the channel may have done it on either.
    let (code, rows, stderr) = told(statement.run(
        &format!("{HEADER}\nPAYMENT,T1,#1,,59.80,CNY,\n{OTHERS}"),
        &["--channel", "sandbox", "--set", "statistics.time_zone=Asia/Tokyo"],
    ));
    assert_eq!((code, rows.len()), (Some(0), 0), "{stderr}");
    statement.asked_on_the_day_before(41).await;
    let (code, rows) = statement.differences(&format!(
        "{HEADER}\nPAYMENT,T1,#1,,59.80,CNY,\n{}",
        OTHERS.replace("REFUND,T4,#4,41,1.00,CNY,\n", "")
    ));
    assert_eq!((code, named(&rows)), (Some(1), vec![("missing", Value::Null)]));
    assert!(rows[0]["record"].as_str().unwrap().contains("statements before"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_line_costs_itself_alone() {
    let statement = Statement::new().await;
    let compare = |text: &str| told(statement.run(&format!("{HEADER}\n{text}{OTHERS}"), &["--channel", "sandbox"]));

    // What people and spreadsheets write is read.
    for (line, wanted) in [
        ("PAYMENT,T1,#1,,¥59.80,CNY,", vec![]),
        ("PAYMENT,`T1,`#1,`,`59.80,RMB,", vec![]),
        (",T1,#1,,59.80,CNY,\n合计,,,,73.80,CNY,", vec![]),
        (",T1,#1,,59.80,CNY,\nTotal,,,,1.00,CNY,", vec![("totals", json!(3))]),
        ("PAYMENT,T1,#1,,\"1,250.00\",CNY,", vec![("amount", json!(2))]),
        (",T1,#1,,59.80,CNY,\n,T1,#1,43,-30.00,CNY,", vec![("amount", json!(3)), ("repeated", json!(8))]),
        (",T1,#1,,59.80,CNY,\n,T1,M-9-1,,12.50,CNY,", vec![("unknown", json!(3))]),
    ] {
        let (code, rows, stderr) = compare(&format!("{line}\n"));
        let wanted_code = Some(i32::from(!wanted.is_empty()));
        assert_eq!((code, named(&rows)), (wanted_code, wanted), "{line}: {stderr}");
    }

    // What cannot be read is told with its line, and everything else is compared.
    for line in [
        "PAYMENT,T1,#1,,59.801,CNY,",
        "PAYMENT,T1,#1,,\"12,50\",CNY,",
        "PAYMENT,T1,#1,,$59.80,CNY,",
        "PAYMENT,T1,#1,,-59.80,CNY,",
        "PAYMENT,T1,4.12346E+17,,59.80,CNY,",
        "CHARGE,T1,#1,,59.80,CNY,",
        "PAYMENT,T1",
        "PAYMENT,T1,#1,,59.80,CNY,\"",
    ] {
        let (code, rows, stderr) = compare(&format!("{line}\n"));
        assert_eq!((code, named(&rows)), (Some(3), vec![("missing", Value::Null)]), "{line}: {stderr}");
        assert_eq!(stderr.matches("error: line 2: ").count(), 1, "{line}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_numbered_as_an_editor_does() {
    let statement = Statement::new().await;
    let text = format!(
        "{HEADER}\nPAYMENT,T1,#1,,59.80,CNY,\"a remark\nof three\nlines\"\n\n{OTHERS}PAYMENT,T1,#1,,1.x,CNY,\n\
         PAYMENT,T1,#9,,1.00,CNY,\n"
    );
    for end in ["\n", "\r\n", "\r"] {
        // A byte that is no text stands in a column that nobody reads.
        let text = statement.with_ids(&text).replace('\n', end);
        let bytes = [text.as_bytes(), b"PAYMENT,T1,5,,1.00,CNY,\xb1\xb8\r\n"].concat();
        let (code, rows, stderr) = told(statement.run_bytes(&bytes, &["--channel", "sandbox"]));
        assert_eq!(code, Some(3), "{end:?}: {stderr}");
        assert_eq!(named(&rows), [("unknown", json!(12)), ("unknown", json!(13))], "{end:?}");
        assert!(stderr.contains("error: line 11: \"1.x\" is no amount"), "{end:?}: {stderr}");
        assert_eq!(rows[0]["paymentId"], (statement.first + 9).to_string());
    }
}

/// The bill of WeChat Pay, with its marks in front of numbers and its totals.
const WECHAT: &str = "\u{feff}交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,\
    货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,\
    订单金额,申请退款金额,费率备注\r\n";

fn wechat_row(number: &str, payment: &str, status: &str, amount: &str, refund: (&str, &str, &str)) -> String {
    let (refund, refunded, state) = refund;
    format!(
        "`2027-01-15 09:00:00,`wx1,`10,`0,`,`{number},`{payment},`u,`JSAPI,`{status},`OTHERS,`CNY,`0.00,`0.00,`5,`{refund},\
         `0.00,`0.00,`,`{state},`茶,`,`0.01,`0.60%,`{amount},`{refunded},`\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_of_wechat_is_read_whole() {
    let statement = Statement::new().await;
    let none = ("0", "0.00", "");
    let lines = [
        wechat_row("T1", "#1", "SUCCESS", "59.80", none),
        wechat_row("T2", "#2", "SUCCESS", "5.00", none),
        wechat_row("T4", "#4", "SUCCESS", "1.00", none),
        wechat_row("T4", "#4", "REFUND", "0.00", ("41", "1.00", "SUCCESS")),
        wechat_row("T5", "#5", "SUCCESS", "8.00", none),
        wechat_row("T5", "#5", "REFUND", "0.00", ("42", "1.00", "PROCESSING")),
        wechat_row("T1", "#1", "REFUND", "0.00", ("43", "1.00", "SUCCESS")),
    ]
    .concat();
    let totals = |lines: u64, paid: &str, back: &str| {
        format!(
            "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额\r\n\
             `{lines},`0.00,`0.00,`0.00,`0.07,`{paid},`{back}\r\n"
        )
    };
    let args = ["--channel", "sandbox", "--format", "wechat"];
    let compare = |text: &str| told(statement.run(text, &args));

    let (code, rows, stderr) = compare(&format!("{WECHAT}{lines}{}", totals(7, "73.80", "3.00")));
    assert_eq!((code, rows.len()), (Some(0), 0), "{stderr} {rows:?}");
    assert!(stderr.contains("7 lines, 7 fit, 0 differences, 0 lines cannot be read"), "{stderr}");

    let (code, rows, stderr) = compare(&format!("{WECHAT}{lines}{}", totals(8, "73.80", "4.00")));
    assert_eq!((code, named(&rows)), (Some(1), vec![("totals", json!(10)), ("totals", json!(10))]), "{stderr}");
    let statements: Vec<&Value> = rows.iter().map(|row| &row["statement"]).collect();
    assert_eq!(statements, ["8 lines", "4.00"]);

    // A file without its end is not whole, whatever its lines say.
    let (code, rows, stderr) = compare(&format!("{WECHAT}{lines}"));
    assert_eq!((code, rows.len()), (Some(3), 0), "{stderr}");
    assert!(stderr.contains("it is not whole"), "{stderr}");
    let failed = lines.replace("PROCESSING", "CHANGE").replace(",`41,", ",`77,");
    let (code, rows, stderr) = compare(&format!("{WECHAT}{failed}{}", totals(7, "73.80", "3.00")));
    assert_eq!((code, named(&rows)), (Some(1), vec![("unknown", json!(5)), ("missing", Value::Null)]), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_of_alipay_is_read_whole() {
    let statement = Statement::new().await;
    let row = |number: &str, payment: &str, what: &str, amount: &str, refund: &str| {
        format!(
            "{number}\t,{payment}\t,{what}     ,茶,2027-01-15 09:00:00,,,,,,a@b,{amount},{amount},0.00,{refund},\r\n"
        )
    };
    let bill = |paid: &str| {
        [
            "#支付宝业务明细查询\r\n#账号：[20880000]\r\n#起始日期：[2027年01月15日 00:00:00]   终止日期：[2027年01月16日 00:00:00]\r\n\
             #-----------------------------------------业务明细列表----------------------------------------\r\n\
             支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,\
             商家实收（元）,支付宝红包（元）,退款批次号/请求号,备注\r\n",
            &row("T1", "#1", "交易", "59.80", ""),
            &row("T2", "#2", "交易", "5.00", ""),
            &row("T4", "#4", "交易", "1.00", ""),
            &row("T4", "#4", "退款", "-1.00", "41"),
            &row("T5", "#5", "交易", "8.00", ""),
            &row("T1", "#1", "退款", "-1.00", "43"),
            "#-----------------------------------------业务明细列表结束------------------------------------\r\n",
            &format!("#交易合计：4笔，商家实收共{paid}元，商家优惠共0.00元\r\n"),
            "#退款合计：2笔，商家实收退款共-2.00元，商家优惠退款共0.00元\r\n#导出时间：[2027年01月16日 08:00:00]\r\n",
        ]
        .concat()
    };
    let args = ["--channel", "sandbox", "--format", "alipay"];
    for encoding in [encoding_rs::GBK, encoding_rs::UTF_8] {
        let compare = |text: &str| {
            let text = statement.with_ids(text);
            told(statement.run_bytes(&encoding.encode(&text).0, &args))
        };
        let (code, rows, stderr) = compare(&bill("73.80"));
        assert_eq!((code, rows.len()), (Some(0), 0), "{}: {stderr} {rows:?}", encoding.name());
        let (code, rows, stderr) = compare(&bill("74.80"));
        assert_eq!((code, named(&rows)), (Some(1), vec![("totals", json!(13))]), "{stderr}");
        let cut = bill("73.80");
        let (code, _, stderr) = compare(&cut[..cut.find("#交易合计").unwrap()]);
        assert_eq!(code, Some(3), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_may_have_other_names() {
    let statement = Statement::new().await;
    let file = "Kind,No,订单,Refund,Sum,Cur\nPAYMENT,T1,#1,,59.80,CNY\nPAYMENT,T2,#2,,5.00,CNY\nPAYMENT,T4,#4,,1,CNY\n\
        PAYMENT,T5,#5,,8,CNY\nREFUND,T4,#4,41,1.00,CNY\nREFUND,T1,#1,43,1.00,CNY\n";
    let file = encoding_rs::GBK.encode(&statement.with_ids(file)).0.into_owned();
    let columns = "type=Kind,transactionNo=No,paymentId=订单,refundId=Refund,amount=Sum,currency=Cur";
    let args = ["--channel", "sandbox", "--columns", columns];
    let (code, rows, stderr) = told(statement.run_bytes(&file, &args));
    assert_eq!((code, rows.len()), (Some(0), 0), "{stderr}");
    let (code, _, stderr) = told(statement.run_bytes(&file, &[&args[..], &["--encoding", "utf-8"]].concat()));
    assert!(code == Some(3) && stderr.contains("--encoding"), "{stderr}");
    for wrong in [["--columns", "colour=Kind"], ["--columns", "amount"], ["--encoding", "utf-16le"], ["--format", "x"]]
    {
        let (code, _, stderr) = told(statement.run_bytes(&file, &[&args[..2], &wrong[..]].concat()));
        assert_eq!(code, Some(2), "{wrong:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_without_end_is_given_up() {
    let statement = Statement::new().await;
    let mut command = tokio::process::Command::from(statement.command(std::path::Path::new("/dev/zero")));
    let ended = command.args(["--channel", "sandbox"]).kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), ended).await.expect("it ends").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{stderr}");
    assert!(stderr.contains("cannot reconcile /dev/zero") && stderr.contains("line 1: it has no end"), "{stderr}");

    // What is kept of a line is no longer than what it may be.
    let long = format!("{HEADER}\nPAYMENT,{},#1,,59.80,CNY,\n{OTHERS}", "T".repeat(300));
    let (code, rows, stderr) = told(statement.run(&long, &["--channel", "sandbox"]));
    assert_eq!((code, named(&rows)), (Some(3), vec![("missing", Value::Null)]), "{stderr}");
    assert!(stderr.contains("error: line 2: transactionNo has more than 200 characters"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_ends_with_3() {
    let statement = Statement::new().await;
    for (text, hint) in [
        ("a,b\n1,2\n", "the header has no transactionNo, paymentId, amount, currency"),
        ("", "it is empty"),
        ("\"type,transactionNo\n", "a quote is not closed"),
    ] {
        let output = statement.run(text, &["--channel", "sandbox"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(3) && stderr.contains(hint), "{hint}: {stderr}");
        assert!(stderr.contains("help: ") && output.stdout.is_empty(), "{stderr}");
    }
    let wide: Vec<u8> = HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (code, _, stderr) = told(statement.run_bytes(&[&[0xff, 0xfe], &wide[..]].concat(), &["--channel", "sandbox"]));
    assert!(code == Some(3) && stderr.contains("UTF-16"), "{stderr}");
    let nowhere = ["--channel", "sandbox", "--set", "database.url=sqlite:///nowhere/at/all.db"];
    assert_eq!(statement.run(HEADER, &nowhere).status.code(), Some(3));
    let output = statement.run(HEADER, &["--channel", "nobody"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
