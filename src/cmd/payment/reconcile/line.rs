//! A line of a statement, whoever made it.

use super::form::{Column, Layout};
use crate::audit::statement::{Line, What};
use crate::cmd::csv_file::Record;
use crate::domain::money::Money;

/// What a statement's line says, and what its totals count of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// None of a line about money that did not move.
    pub line: Option<Line>,
    pub what: What,
    pub currency: String,
    /// What the totals of the file are the sum of.
    pub counted: Money,
}

/// Reads a line.
///
/// # Errors
/// Why it says nothing that can be compared.
pub(super) fn read(record: &Record, layout: &Layout) -> Result<Entry, String> {
    if layout.is_short(record) {
        return Err(format!("it has {} fields, which is fewer than the header", record.len()));
    }
    let text = |column| layout.text(record, column);
    let currency = currency(&text(Column::Currency)?);
    let named = what(&text(Column::Type)?)?;

    let written = match (named, text(Column::RefundAmount)?) {
        (Some(What::Refund), refunded) if !refunded.is_empty() => refunded,
        _ => text(Column::Amount)?,
    };
    let (is_negative, amount) = amount(&written, &currency)?;
    let what = match (named, is_negative) {
        (Some(What::Payment), true) => return Err(format!("a payment of {written:?} is none")),
        // Money that goes the other way went back, where nothing says so in words.
        (None, true) | (Some(What::Refund), _) => What::Refund,
        _ => What::Payment,
    };
    let counted = match text(Column::Received)? {
        received if received.is_empty() => amount,
        received => self::amount(&received, &currency)?.1,
    };

    let refund = if what == What::Refund { unmangled(text(Column::RefundId)?)? } else { String::new() };
    let (is_moved, is_done) = if what == What::Refund { moved(&text(Column::RefundStatus)?) } else { (true, true) };
    let line = Line {
        number: record.line,
        what,
        transaction_no: unmangled(text(Column::TransactionNo)?)?,
        payment: unmangled(text(Column::PaymentId)?)?,
        refund,
        amount,
        currency: currency.clone(),
        is_done,
    };
    Ok(Entry { line: is_moved.then_some(line), what, currency, counted })
}

/// What a line is about; none where it does not say.
fn what(text: &str) -> Result<Option<What>, String> {
    match text.to_ascii_uppercase().as_str() {
        "" => Ok(None),
        "PAYMENT" | "SUCCESS" | "交易" | "支付" => Ok(Some(What::Payment)),
        // What a channel takes back before the day ends went back as well.
        "REFUND" | "REVOKED" | "退款" | "交易退款" => Ok(Some(What::Refund)),
        _ => Err(format!("its type must be PAYMENT or REFUND, and is {text:?}")),
    }
}

/// Whether the money of a refund moves, and whether it has moved.
fn moved(status: &str) -> (bool, bool) {
    match status.to_ascii_uppercase().as_str() {
        "PROCESSING" | "退款处理中" => (true, false),
        "FAIL" | "FAILED" | "CHANGE" | "CLOSED" | "退款失败" | "退款异常" | "退款关闭" => (false, false),
        _ => (true, true),
    }
}

/// ISO 4217; where the file has none, it is of a channel that knows only one.
fn currency(text: &str) -> String {
    match text.to_ascii_uppercase().as_str() {
        "" | "RMB" | "人民币" => "CNY".to_owned(),
        other => other.to_owned(),
    }
}

/// A number that a spreadsheet wrote as 4.12E+17 has lost its last digits.
fn unmangled(text: String) -> Result<String, String> {
    if text.to_ascii_uppercase().contains("E+") && text.parse::<f64>().is_ok() {
        return Err(format!("{text:?} is what a spreadsheet made of a longer number: export the file once more"));
    }
    Ok(text)
}

/// An amount as people and spreadsheets write it, `¥1,250.00` or `-30.00` or `(30.00)`: whether it is negative, and how
/// much.
///
/// # Errors
/// It is no amount, or one of another currency.
pub(super) fn amount(text: &str, currency: &str) -> Result<(bool, Money), String> {
    let wrong = |why: &str| format!("{text:?} is no amount: {why}");
    let (mut rest, mut is_negative) = (text.trim(), false);
    if let Some(inner) = rest.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        (rest, is_negative) = (inner.trim(), true);
    }
    // The sign may stand before or after the currency.
    for _ in 0..2 {
        if let Some(unsigned) = rest.strip_prefix(['-', '−', '－']) {
            if is_negative {
                return Err(wrong("it has two signs"));
            }
            (rest, is_negative) = (unsigned.trim_start(), true);
        } else if let Some(unsigned) = rest.strip_prefix('+') {
            rest = unsigned.trim_start();
        }
        rest = without_symbol(rest, currency);
    }

    let plain = without_groups(rest).ok_or_else(|| wrong("its commas do not part thousands"))?;
    let money: Money = plain.parse().map_err(|error| wrong(&format!("{error}")))?;
    Ok((is_negative && money != Money::ZERO, money))
}

fn without_symbol<'a>(text: &'a str, currency: &str) -> &'a str {
    let symbols: &[&str] = match currency {
        "CNY" => &["¥", "￥", "元", "RMB"],
        "JPY" => &["¥", "￥"],
        "USD" => &["US$", "$"],
        "HKD" => &["HK$", "$"],
        "EUR" => &["€"],
        "GBP" => &["£"],
        _ => &[],
    };
    for symbol in symbols.iter().copied().chain([currency]) {
        let bare = text.strip_prefix(symbol).or_else(|| text.strip_suffix(symbol));
        if let Some(bare) = bare {
            return bare.trim();
        }
    }
    text
}

/// `1,250.00` is `1250.00`; none where a comma stands elsewhere than between thousands.
fn without_groups(text: &str) -> Option<String> {
    let (whole, places) = text.split_once('.').map_or((text, None), |(whole, places)| (whole, Some(places)));
    let groups: Vec<&str> = whole.split([',', '，']).collect();
    let (first, rest) = groups.split_first()?;
    let is_well = rest.is_empty() || ((1..=3).contains(&first.len()) && rest.iter().all(|group| group.len() == 3));
    let whole = groups.concat();
    is_well.then(|| places.map_or_else(|| whole.clone(), |places| format!("{whole}.{places}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, currency, wanted) in [
            ("59.80", "CNY", "59.80"),
            ("1,250.00", "CNY", "1250.00"),
            ("1,234,567", "CNY", "1234567.00"),
            ("¥12.50", "CNY", "12.50"),
            ("￥ 1,250.5", "CNY", "1250.50"),
            ("12.50元", "CNY", "12.50"),
            ("CNY 12.50", "CNY", "12.50"),
            ("-30.00", "CNY", "-30.00"),
            ("-¥30.00", "CNY", "-30.00"),
            ("¥-30.00", "CNY", "-30.00"),
            ("(30.00)", "CNY", "-30.00"),
            ("+30", "USD", "30.00"),
            ("$30", "USD", "30.00"),
            ("-0.00", "CNY", "0.00"),
        ] {
            let (is_negative, money) = amount(text, currency).unwrap();
            assert_eq!(format!("{}{money}", if is_negative { "-" } else { "" }), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "x", "12,50", "1,2500", ",250", "1.234", "$12.50", "--3", "¥", "1 2", "NaN", "-"] {
            assert!(amount(text, "CNY").is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_spreadsheet_shortened_is_told() {
        assert!(unmangled("4.12346E+17".to_owned()).is_err());
        for fine in ["412345678901234567", "M-9-1", "", "T4E2x"] {
            assert_eq!(unmangled(fine.to_owned()).unwrap(), fine);
        }
    }
}
