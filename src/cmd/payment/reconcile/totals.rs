//! The totals that a statement names itself, against those of the lines that were read: so it shows when lines of a file
//! were lost.

use encoding_rs::Encoding;

use super::form::{Column, Form, Layout, bare, normal};
use super::line::{Entry, amount};
use crate::audit::statement::{Difference, Kind, What};
use crate::cmd::csv_file::Record;

/// How many lines there were, and their sum in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Side {
    lines: u64,
    minor: i64,
}

/// What a statement says of its lines; what it does not say is none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    number: u64,
    what: What,
    lines: Option<u64>,
    minor: Option<i64>,
}

/// The totals of a file, while it is read.
#[derive(Debug, Default)]
pub(super) struct Totals {
    payments: Side,
    refunds: Side,
    currencies: std::collections::BTreeSet<String>,
    declared: Vec<Declared>,
    /// The header of the totals of WeChat Pay, once it has come.
    header: Option<Vec<String>>,
}

/// What a line that is not compared is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Around {
    /// A comment, or a total.
    Read,
    /// A line of the statement.
    Line,
}

impl Totals {
    /// Counts a line.
    pub fn add(&mut self, entry: &Entry) {
        let side = if entry.what == What::Refund { &mut self.refunds } else { &mut self.payments };
        side.lines += 1;
        side.minor = side.minor.saturating_add(entry.counted.minor());
        self.currencies.insert(entry.currency.clone());
    }

    /// The statement has named its totals.
    pub fn is_complete(&self) -> bool {
        !self.declared.is_empty()
    }

    /// Takes what stands around the lines of a statement.
    ///
    /// # Errors
    /// It is a total that cannot be read.
    pub fn take(&mut self, record: &Record, layout: &Layout) -> Result<Around, String> {
        let first = layout.first(record);
        match layout.form {
            Form::Ruyi if is_total(&first) => self.total_line(record, layout),
            Form::Wechat if first == "总交易单数" => {
                self.header = Some(fields(record, layout.encoding));
                Ok(Around::Read)
            }
            Form::Wechat => match self.header.take() {
                Some(header) => self.total_row(record, &header, layout),
                None => Ok(Around::Line),
            },
            Form::Alipay if first.starts_with('#') => self.comment(record, layout),
            Form::Ruyi | Form::Alipay => Ok(Around::Line),
        }
    }

    /// `合计,,,60.80,CNY`: of payments, of refunds, or of both, as its type says.
    fn total_line(&mut self, record: &Record, layout: &Layout) -> Result<Around, String> {
        let what = match layout.text(record, Column::Type)?.to_ascii_uppercase().as_str() {
            "PAYMENT" => What::Payment,
            "REFUND" => What::Refund,
            _ => What::Total,
        };
        let written = layout.text(record, Column::Amount)?;
        if !written.is_empty() {
            let currency = layout.text(record, Column::Currency)?;
            let (is_negative, money) = amount(&written, if currency.is_empty() { "CNY" } else { &currency })?;
            let minor = if is_negative { -money.minor() } else { money.minor() };
            self.declared.push(Declared { number: record.line, what, lines: None, minor: Some(minor) });
        }
        Ok(Around::Read)
    }

    /// The row below the header of the totals of WeChat Pay.
    fn total_row(&mut self, record: &Record, header: &[String], layout: &Layout) -> Result<Around, String> {
        let row = fields(record, layout.encoding);
        let cell = |name: &str| header.iter().position(|one| one == name).and_then(|place| row.get(place));
        let lines = cell("总交易单数").and_then(|count| count.parse().ok());
        let lines = lines.ok_or_else(|| "the number of lines in the totals is no number".to_owned())?;
        let number = record.line;
        self.declared.push(Declared { number, what: What::Total, lines: Some(lines), minor: None });

        // Each column of amounts has a total of its own.
        let of_payments = match layout.name(Column::Amount) {
            Some("订单金额") => "订单总金额",
            Some("应结订单金额") => "应结订单总金额",
            _ => "总交易额",
        };
        let of_refunds = match layout.name(Column::RefundAmount) {
            Some("申请退款金额") => &["申请退款总金额"][..],
            _ => &["退款总金额", "总退款金额"][..],
        };
        let sums = [(What::Payment, cell(of_payments)), (What::Refund, of_refunds.iter().find_map(|name| cell(name)))];
        for (what, sum) in sums {
            if let Some(sum) = sum {
                let minor = amount(sum, "CNY")?.1.minor();
                self.declared.push(Declared { number, what, lines: None, minor: Some(minor) });
            }
        }
        Ok(Around::Read)
    }

    /// `#交易合计：2笔，商家实收共0.02元，商家优惠共0.00元`, and the same of refunds.
    fn comment(&mut self, record: &Record, layout: &Layout) -> Result<Around, String> {
        let text = fields(record, layout.encoding).join(",");
        let Some((about, figures)) = text.split_once("合计：").or_else(|| text.split_once("合计:")) else {
            return Ok(Around::Read);
        };
        let what = if about.contains("退款") { What::Refund } else { What::Payment };
        let count = figures.split('笔').next().and_then(|count| count.trim().parse().ok());
        let sum = figures.split_once('共').and_then(|(_, sum)| sum.split('元').next());
        let (Some(lines), Some(sum)) = (count, sum) else {
            return Err(format!("its totals cannot be read: {text}"));
        };
        // What is counted is in the column of what was received; without it the count alone is compared.
        let minor = amount(sum, "CNY")?.1.minor();
        let minor = layout.name(Column::Received).map(|_| minor);
        self.declared.push(Declared { number: record.line, what, lines: Some(lines), minor });
        Ok(Around::Read)
    }

    /// What the statement says of itself, and its lines do not.
    pub fn differences(&self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for declared in &self.declared {
            let (lines, sums) = match declared.what {
                What::Payment => (self.payments.lines, vec![self.payments.minor]),
                What::Refund => (self.refunds.lines, vec![self.refunds.minor, -self.refunds.minor]),
                // People write what came in, or what is left of it.
                What::Total => {
                    let (paid, back) = (self.payments.minor, self.refunds.minor);
                    (self.payments.lines + self.refunds.lines, vec![paid, paid - back, paid.saturating_add(back)])
                }
            };
            // Sums of several currencies say nothing.
            let minor = declared.minor.filter(|_| self.currencies.len() <= 1);
            let fits =
                declared.lines.is_none_or(|count| count == lines) && minor.is_none_or(|minor| sums.contains(&minor));
            if !fits {
                differences.push(Difference {
                    kind: Kind::Totals,
                    number: Some(declared.number),
                    what: declared.what,
                    payment: String::new(),
                    refund: String::new(),
                    transaction_no: String::new(),
                    statement: shown(declared.lines, minor),
                    record: format!("its lines: {}", shown(Some(lines), sums.first().copied())),
                });
            }
        }
        differences
    }
}

fn shown(lines: Option<u64>, minor: Option<i64>) -> String {
    let lines = lines.map(|lines| format!("{lines} lines"));
    let sum = minor
        .map(|minor| format!("{}{}.{:02}", if minor < 0 { "-" } else { "" }, minor.abs() / 100, minor.abs() % 100));
    lines.into_iter().chain(sum).collect::<Vec<_>>().join(", ")
}

fn fields(record: &Record, encoding: &'static Encoding) -> Vec<String> {
    let fields = (0..record.len()).map(|place| record.text(place, encoding).unwrap_or_default());
    fields.map(|field| normal(bare(&field))).collect()
}

/// What stands in front of a total, in the languages of those who write them.
fn is_total(first: &str) -> bool {
    let word = first.trim_end_matches([':', '：']).to_lowercase();
    matches!(word.as_str(), "total" | "totals" | "sum" | "合计" | "总计" | "汇总")
}
