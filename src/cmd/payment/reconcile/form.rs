//! The forms of statements: which column says what, where the lines begin, and what stands around them.

use std::collections::BTreeMap;
use std::io::Read;

use encoding_rs::Encoding;

use crate::cmd::csv_file::{Record, Records, guess};
use crate::domain::id::unpadded;

/// Lines in front of the header, at most.
const PREAMBLE_MAX: usize = 50;

/// Characters of what is read of a line, at most: no number, amount or currency has more.
const TEXT_MAX: usize = 200;

/// Who made the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// Columns paymentId, transactionNo, amount, currency, and for refunds type (PAYMENT or REFUND) and refundId
    Ruyi,
    /// The bill of transactions of WeChat Pay, of all, of payments, or of refunds
    Wechat,
    /// The details of business of Alipay
    Alipay,
}

/// What a column says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Type,
    TransactionNo,
    PaymentId,
    RefundId,
    Amount,
    RefundAmount,
    RefundStatus,
    Currency,
    /// What the totals of Alipay are the sum of.
    Received,
}

impl Column {
    const ALL: [Self; 9] = [
        Self::Type,
        Self::TransactionNo,
        Self::PaymentId,
        Self::RefundId,
        Self::Amount,
        Self::RefundAmount,
        Self::RefundStatus,
        Self::Currency,
        Self::Received,
    ];

    /// As in `--columns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::TransactionNo => "transactionNo",
            Self::PaymentId => "paymentId",
            Self::RefundId => "refundId",
            Self::Amount => "amount",
            Self::RefundAmount => "refundAmount",
            Self::RefundStatus => "refundStatus",
            Self::Currency => "currency",
            Self::Received => "received",
        }
    }
}

/// A column, and what a file calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renamed {
    column: Column,
    name: String,
}

impl std::str::FromStr for Renamed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Column::ALL.map(Column::name).join(", ");
        let (column, name) = text.split_once('=').ok_or_else(|| format!("{text:?} is not like amount=NAME"))?;
        let column = Column::ALL.into_iter().find(|one| one.name() == column.trim());
        let column = column.ok_or_else(|| format!("{text:?}: the columns are {}", known()))?;
        Ok(Self { column, name: normal(name) })
    }
}

impl Form {
    /// What its files call a column, the best first.
    fn names(self, column: Column) -> &'static [&'static str] {
        match (self, column) {
            (Self::Ruyi, Column::Type) => &["type"],
            (Self::Ruyi, Column::TransactionNo) => &["transactionNo"],
            (Self::Ruyi, Column::PaymentId) => &["paymentId"],
            (Self::Ruyi, Column::RefundId) => &["refundId"],
            (Self::Ruyi, Column::Amount) => &["amount"],
            (Self::Ruyi, Column::Currency) => &["currency"],
            (Self::Wechat, Column::Type) => &["交易状态"],
            (Self::Wechat, Column::TransactionNo) => &["微信订单号"],
            (Self::Wechat | Self::Alipay, Column::PaymentId) => &["商户订单号"],
            (Self::Wechat, Column::RefundId) => &["商户退款单号"],
            (Self::Wechat, Column::Amount) => &["订单金额", "应结订单金额", "总金额"],
            (Self::Wechat, Column::RefundAmount) => &["申请退款金额", "退款金额"],
            (Self::Wechat, Column::RefundStatus) => &["退款状态"],
            (Self::Wechat, Column::Currency) => &["货币种类"],
            (Self::Alipay, Column::Type) => &["业务类型"],
            (Self::Alipay, Column::TransactionNo) => &["支付宝交易号"],
            (Self::Alipay, Column::RefundId) => &["退款批次号/请求号", "退款批次号"],
            (Self::Alipay, Column::Amount) => &["订单金额(元)"],
            (Self::Alipay, Column::Received) => &["商家实收(元)"],
            (Self::Ruyi, Column::RefundAmount | Column::RefundStatus | Column::Received)
            | (Self::Wechat, Column::Received)
            | (Self::Alipay, Column::RefundAmount | Column::RefundStatus | Column::Currency) => &[],
        }
    }

    /// Without these no line says anything.
    fn required(self) -> &'static [Column] {
        match self {
            Self::Ruyi => &[Column::PaymentId, Column::TransactionNo, Column::Amount, Column::Currency],
            Self::Wechat | Self::Alipay => &[Column::PaymentId, Column::TransactionNo, Column::Amount, Column::Type],
        }
    }

    /// In front of the header may stand what is none.
    fn has_preamble(self) -> bool {
        self != Self::Ruyi
    }

    /// Every file ends with its totals.
    pub fn has_totals(self) -> bool {
        self != Self::Ruyi
    }
}

/// Blanks around it say nothing, and brackets may be of full width.
pub(super) fn normal(name: &str) -> String {
    name.trim().replace('（', "(").replace('）', ")")
}

/// Where a file has what, and in which encoding.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub form: Form,
    pub encoding: &'static Encoding,
    /// Of each column that is there: its place, and what the file calls it.
    places: BTreeMap<Column, (usize, String)>,
}

impl Layout {
    /// Reads a file up to its header; without an encoding, that of the header.
    ///
    /// # Errors
    /// There is no header, or it lacks a column: what it has, and how to say which column is which.
    pub fn read<R: Read>(
        records: &mut Records<R>,
        form: Form,
        encoding: Option<&'static Encoding>,
        renamed: &[Renamed],
    ) -> anyhow::Result<Self> {
        let mut fault = anyhow::anyhow!("it is empty: it has to begin with a header");
        let most = if form.has_preamble() { PREAMBLE_MAX } else { 1 };
        for record in records.by_ref().take(most) {
            let record = match record {
                Ok(record) => record,
                Err(error) if form.has_preamble() => {
                    fault = error.into();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match Self::of(&record, form, encoding.unwrap_or_else(|| guess(&record)), renamed) {
                Ok(layout) => return Ok(layout),
                // A line in front of the header lacks everything, so the header itself is what lacks least.
                Err(missing) => {
                    if record.len() > 1 || most == 1 {
                        fault = missing;
                    }
                }
            }
        }
        Err(fault)
    }

    fn of(record: &Record, form: Form, encoding: &'static Encoding, renamed: &[Renamed]) -> anyhow::Result<Self> {
        let Some(header) = record.texts(encoding) else {
            anyhow::bail!("its header is not {}: say which encoding it has with --encoding", encoding.name());
        };
        let header: Vec<String> = header.iter().map(|name| normal(name)).collect();
        let (mut places, mut missing) = (BTreeMap::new(), Vec::new());
        for column in Column::ALL {
            let own = renamed.iter().find(|renamed| renamed.column == column).map(|renamed| renamed.name.as_str());
            let names: Vec<&str> = own.map_or_else(|| form.names(column).to_vec(), |name| vec![name]);
            let found =
                names.iter().find_map(|name| header.iter().position(|other| other == name).map(|at| (at, name)));
            match found {
                Some((place, name)) => drop(places.insert(column, (place, (*name).to_owned()))),
                None if form.required().contains(&column) || own.is_some() => {
                    missing.push((names.join(" or "), format!("{}=NAME", column.name())));
                }
                None => {}
            }
        }
        if !missing.is_empty() {
            let (wanted, columns): (Vec<String>, Vec<String>) = missing.into_iter().unzip();
            let (wanted, columns, has) = (wanted.join(", "), columns.join(","), header.join(", "));
            anyhow::bail!("the header has no {wanted}: it has {has}; say what it calls them with --columns {columns}");
        }
        Ok(Self { form, encoding, places })
    }

    /// The text of a column in a line, as far as there is one; the marks that keep spreadsheets from changing a number
    /// are no part of it.
    ///
    /// # Errors
    /// It is no text in the encoding of the file, or a long one.
    pub fn text(&self, record: &Record, column: Column) -> Result<String, String> {
        let Some((place, name)) = self.places.get(&column) else { return Ok(String::new()) };
        let text = record.text(*place, self.encoding).ok_or_else(|| {
            let encoding = self.encoding.name();
            format!("{name} is not {encoding}: say which encoding the file has with --encoding")
        })?;
        if text.chars().count() > TEXT_MAX {
            return Err(format!("{name} has more than {TEXT_MAX} characters"));
        }
        Ok(bare(&text).to_owned())
    }

    /// What the file calls a column; none where it is not there.
    pub fn name(&self, column: Column) -> Option<&str> {
        self.places.get(&column).map(|(_, name)| name.as_str())
    }

    /// The first field of a line, if it is a text in the encoding of the file.
    pub fn first(&self, record: &Record) -> String {
        record.text(0, self.encoding).map(|text| bare(&text).to_owned()).unwrap_or_default()
    }

    /// A line that has not all the fields of the columns that are read.
    pub fn is_short(&self, record: &Record) -> bool {
        self.places.values().any(|(place, _)| *place >= record.len())
    }
}

/// A number without the mark in front of it that keeps a spreadsheet from changing it.
pub(super) fn bare(text: &str) -> &str {
    unpadded(unpadded(text).trim_start_matches(['`', '\'']))
}
