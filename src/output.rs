//! Results on stdout: a table for people, JSON for programs. Logs and progress go to stderr, never here.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tabled::builder::Builder;
use tabled::settings::Style;

/// The version in JSON documents; it grows when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people
    Table,
    /// One document: {"version":1,"items":[...]}
    Json,
    /// One object per line
    Jsonl,
}

impl Format {
    /// What was asked for; else a table on a terminal and JSON lines elsewhere.
    #[must_use]
    pub fn or_default(asked: Option<Self>) -> Self {
        asked.unwrap_or_else(|| if io::stdout().is_terminal() { Self::Table } else { Self::Jsonl })
    }
}

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader has gone (`ruyi ... | head`): not a failure, but a reason to stop.
    #[error("the reader of the output has gone")]
    Closed,
    /// The output failed.
    #[error("cannot write the output")]
    Io(#[source] io::Error),
    /// A row cannot be written as JSON.
    #[error("cannot write a row as JSON")]
    Json(#[from] serde_json::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Io(error) }
    }
}

/// Rows on their way out. Call [`Output::finish`] at the end; without it a table or a JSON document is incomplete.
pub struct Output {
    format: Format,
    out: Box<dyn Write + Send>,
    table: Vec<Row>,
    rows: u64,
}

impl Output {
    /// To stdout.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        Self::new(format, Box::new(io::BufWriter::new(io::stdout())))
    }

    /// To any writer.
    #[must_use]
    pub fn new(format: Format, out: Box<dyn Write + Send>) -> Self {
        Self { format, out, table: Vec::new(), rows: 0 }
    }

    /// One row: a struct or a map. JSON lines and JSON leave as they come, a table is held back until the end.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn row<T: Serialize>(&mut self, row: &T) -> Result<(), OutputError> {
        let mut text = serde_json::to_vec(row)?;
        match self.format {
            Format::Table => self.table.push(serde_json::from_slice(&text)?),
            Format::Jsonl => {
                text.push(b'\n');
                self.out.write_all(&text)?;
            }
            Format::Json => {
                let before = if self.rows == 0 { json_head() } else { ",".to_owned() };
                self.out.write_all(before.as_bytes())?;
                self.out.write_all(&text)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// All rows of `rows`, and the end.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn rows<T: Serialize>(mut self, rows: impl IntoIterator<Item = T>) -> Result<(), OutputError> {
        for row in rows {
            self.row(&row)?;
        }
        self.finish()
    }

    /// Text as it is, for what is neither a row nor JSON.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn text(&mut self, text: &str) -> Result<(), OutputError> {
        Ok(self.out.write_all(text.as_bytes())?)
    }

    /// Hands over what is buffered, for a reader that waits for the row just written.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.out.flush()?)
    }

    /// Writes what was held back and closes the document.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn finish(mut self) -> Result<(), OutputError> {
        match self.format {
            Format::Table if !self.table.is_empty() => {
                let text = table(&self.table);
                writeln!(self.out, "{text}")?;
            }
            Format::Json => {
                let head = if self.rows == 0 { json_head() } else { String::new() };
                writeln!(self.out, "{head}]}}")?;
            }
            Format::Table | Format::Jsonl => {}
        }
        self.flush()
    }
}

fn json_head() -> String {
    format!("{{\"version\":{VERSION},\"items\":[")
}

/// The fields of a row in the order in which the struct declares them; `serde_json::Map` would sort them.
/// A value stays as it is written: a number may be larger than any that we can hold.
struct Row(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row with named fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Row(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Columns are those of all rows, in the order in which they first appear.
fn table(rows: &[Row]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.0) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut builder = Builder::default();
    builder.push_record(columns.iter().map(|name| heading(name)));
    for row in rows {
        builder.push_record(columns.iter().map(|column| {
            row.0.iter().find(|(name, _)| name == column).map(|(_, value)| cell(value)).unwrap_or_default()
        }));
    }
    let text = builder.build().with(Style::blank()).to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `lastStored` is LAST STORED.
fn heading(name: &str) -> String {
    let mut heading = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            heading.push(' ');
        }
        heading.extend(letter.to_uppercase());
    }
    heading
}

fn cell(value: &RawValue) -> String {
    match value.get() {
        "null" => "-".to_owned(),
        raw => printable(&serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned())),
    }
}

/// Keys and bodies of messages come from anyone: no control characters to the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_in_a_table_as_it_was_written() {
        let row: Row =
            serde_json::from_str(r#"{"body":{"n":1e400,"b":[1, "x"]},"lastOne":null,"text":"a\tb"}"#).unwrap();
        let text = table(&[row]);
        assert!(text.contains("LAST ONE") && text.contains(r#"{"n":1e400,"b":[1, "x"]}"#), "{text}");
        assert!(text.contains(r"a\tb") && text.contains(" - "), "{text}");
    }
}
