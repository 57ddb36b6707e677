//! CSV files from elsewhere. Each record knows the line at which it begins, whatever its line ends and however many lines
//! its quotes hold, and a record that cannot be read costs none of those behind it. A file without an end is given up.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use encoding_rs::{Encoding, UTF_8};

/// A longer line is refused, so that a file without line ends is not taken into memory.
const LINE_MAX_BYTES: usize = 1 << 20;
/// What is read of such a line: one that goes on may have no end.
const SKIPPED_MAX_BYTES: usize = 16 << 20;
/// Lines of a file: whoever reads one keeps something of each line.
const FILE_MAX_LINES: u64 = 10_000_000;
/// Lines of a record: a quote that nobody closed would take all that follows.
const RECORD_MAX_LINES: usize = 20;

/// A record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The line at which it begins, from 1.
    pub line: u64,
    fields: Vec<Vec<u8>>,
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// This one cannot be read; those behind it can.
    #[error("line {line}: {why}")]
    Broken {
        /// Where it begins, from 1.
        line: u64,
        /// Why.
        why: &'static str,
    },
    /// This is no table, or more of one than is read at once: nothing further is read.
    #[error("line {line}: {why}")]
    Endless {
        /// Where the reading ended, from 1.
        line: u64,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Nothing further can be read.
    #[error("the file cannot be read any further")]
    Input(#[from] io::Error),
}

impl Record {
    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// The text of a field without the blanks around it; empty where there is no such field. None when it is no text in
    /// this encoding.
    pub fn text(&self, place: usize, encoding: &'static Encoding) -> Option<String> {
        let bytes = self.fields.get(place).map_or(&[][..], Vec::as_slice);
        let text = encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
        Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').to_owned())
    }

    /// All fields as text; none when one of them is no text in this encoding.
    pub fn texts(&self, encoding: &'static Encoding) -> Option<Vec<String>> {
        (0..self.len()).map(|place| self.text(place, encoding)).collect()
    }
}

/// A file, or stdin for `-`.
///
/// # Errors
/// It cannot be opened.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?))
}

/// The encoding of this name, of those in which commas, quotes and line ends are bytes of their own.
///
/// # Errors
/// There is no such encoding, or it is not one of them.
pub(super) fn encoding(name: &str) -> Result<&'static Encoding, String> {
    let known = Encoding::for_label(name.as_bytes());
    let usable = known.filter(|encoding| encoding.is_ascii_compatible());
    usable.ok_or_else(|| format!("{name:?} cannot be read: utf-8, gbk, gb18030, big5 and others of their kind can"))
}

/// The records of a file, in order; blank lines are none.
pub(super) struct Records<R> {
    reader: BufReader<R>,
    /// Lines that were read ahead and turned out to belong to later records.
    ahead: VecDeque<Line>,
    /// Lines read so far.
    read: u64,
    /// Lines that are read at most.
    most: u64,
    is_done: bool,
}

struct Line {
    number: u64,
    bytes: Vec<u8>,
    is_too_long: bool,
}

/// What was read of a line.
struct Taken {
    /// Without the line end; nothing of a line that is too long.
    bytes: Vec<u8>,
    length: usize,
    /// Up to its end.
    is_whole: bool,
}

impl<R: Read> Records<R> {
    /// Of what this reader gives.
    pub fn new(reader: R) -> Self {
        let (reader, ahead, most) = (BufReader::new(reader), VecDeque::new(), FILE_MAX_LINES);
        Self { reader, ahead, read: 0, most, is_done: false }
    }

    fn next_line(&mut self) -> Result<Option<Line>, RecordError> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }

        let Some(Taken { mut bytes, length, is_whole }) = read_line(&mut self.reader)? else { return Ok(None) };
        self.read += 1;
        let line = self.read;
        if !is_whole {
            let why =
                "it has no end within 16 MiB: this is no CSV file, or its line ends were lost; export it once more";
            return Err(RecordError::Endless { line, why });
        }
        if line > self.most {
            let why = "more than 10,000,000 lines are not read: see whether it is the right file, and split it";
            return Err(RecordError::Endless { line, why });
        }

        if line == 1 {
            if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                let error = io::Error::new(io::ErrorKind::InvalidData, "it is UTF-16: save it as CSV in UTF-8");
                return Err(error.into());
            }
            // A byte order mark in front of a quote would hide the quote.
            if bytes.starts_with("\u{feff}".as_bytes()) {
                bytes.drain(..3);
            }
        }
        Ok(Some(Line { number: line, bytes, is_too_long: length > LINE_MAX_BYTES }))
    }

    fn record(&mut self) -> Result<Option<Record>, RecordError> {
        let first = loop {
            match self.next_line()? {
                None => return Ok(None),
                Some(line) if line.bytes.trim_ascii().is_empty() && !line.is_too_long => {}
                Some(line) => break line,
            }
        };
        let line = first.number;
        if first.is_too_long {
            return Err(RecordError::Broken { line, why: "it is longer than 1 MiB" });
        }

        let (mut text, mut more) = (first.bytes, VecDeque::new());
        loop {
            if let Some(fields) = split(&text) {
                return Ok(Some(Record { line, fields }));
            }
            let next = if more.len() + 1 < RECORD_MAX_LINES { self.next_line()? } else { None };
            match next {
                Some(next) if !next.is_too_long && text.len() + next.bytes.len() < LINE_MAX_BYTES => {
                    text.push(b'\n');
                    text.extend_from_slice(&next.bytes);
                    more.push_back(next);
                }
                // The lines behind a quote that is not closed are records of their own.
                next => {
                    more.extend(next);
                    more.append(&mut self.ahead);
                    self.ahead = more;
                    return Err(RecordError::Broken { line, why: "a quote is not closed" });
                }
            }
        }
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let record = self.record().transpose();
        self.is_done = matches!(record, None | Some(Err(RecordError::Endless { .. } | RecordError::Input(_))));
        record
    }
}

/// The next line, whose end is `\n`, `\r\n` or `\r`; of one that goes on and on the beginning.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Taken>> {
    let (mut bytes, mut length, mut is_any) = (Vec::new(), 0, false);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(is_any.then_some(Taken { bytes, length, is_whole: true }));
        }
        is_any = true;
        let end = memchr::memchr2(b'\r', b'\n', buffer);
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        length += part.len();
        if length > LINE_MAX_BYTES {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(part);
        }

        let Some(end) = end else {
            let read = buffer.len();
            reader.consume(read);
            if length > SKIPPED_MAX_BYTES {
                return Ok(Some(Taken { bytes, length, is_whole: false }));
            }
            continue;
        };
        let is_return = buffer.get(end) == Some(&b'\r');
        reader.consume(end + 1);
        if is_return && reader.fill_buf()?.first() == Some(&b'\n') {
            reader.consume(1);
        }
        return Ok(Some(Taken { bytes, length, is_whole: true }));
    }
}

/// The fields of a record; none while a quote is open.
fn split(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut fields, mut field) = (Vec::new(), Vec::new());
    let (mut is_open, mut was_open) = (false, false);
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if is_open && bytes.next_if_eq(&b'"').is_some() => field.push(b'"'),
            b'"' if is_open => is_open = false,
            // Only a quote at the beginning of a field is one: 5" is a size.
            b'"' if !was_open && field.trim_ascii().is_empty() => {
                field.clear();
                (is_open, was_open) = (true, true);
            }
            b',' if !is_open => {
                fields.push(std::mem::take(&mut field));
                was_open = false;
            }
            _ => field.push(byte),
        }
    }
    fields.push(field);
    (!is_open).then_some(fields)
}

/// Text of a file whose encoding nobody named: UTF-8 if it can be that, and else GB18030.
pub(super) fn guess(record: &Record) -> &'static Encoding {
    if record.texts(UTF_8).is_some() { UTF_8 } else { encoding_rs::GB18030 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Result<(u64, Vec<String>), String>> {
        let records = Records::new(io::Cursor::new(text.to_vec()));
        records
            .map(|record| match record {
                Ok(record) => Ok((record.line, record.texts(UTF_8).unwrap())),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    fn record(line: u64, fields: &[&str]) -> Result<(u64, Vec<String>), String> {
        Ok((line, fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn a_record_has_its_line_with_every_line_end() {
        let lines = ["\u{feff}\"a\",b", "", "1, 2 ", "\"x", "y\",\"say \"\"no\"\"\"", " ", "5\" wide,", "last"];
        let wanted = [
            record(1, &["a", "b"]),
            record(3, &["1", "2"]),
            record(4, &["x\ny", "say \"no\""]),
            record(7, &["5\" wide", ""]),
            record(8, &["last"]),
        ];
        for end in ["\n", "\r\n", "\r"] {
            assert_eq!(read(lines.join(end).as_bytes()), wanted, "{end:?}");
            assert_eq!(read((lines.join(end) + end).as_bytes()), wanted, "{end:?} at the end");
        }
    }

    #[test]
    fn an_open_quote_costs_one_line() {
        let broken = |line: u64| Err(format!("line {line}: a quote is not closed"));
        assert_eq!(read(b"a\n\"b\nc\nd"), [record(1, &["a"]), broken(2), record(3, &["c"]), record(4, &["d"])]);
        let many = format!("\"open\n{}", "x\n".repeat(1_000));
        let records = read(many.as_bytes());
        assert_eq!((records.len(), &records[0], &records[1_000]), (1_001, &broken(1), &record(1_001, &["x"])));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let long = format!("a\n{}\nb\n", "x".repeat((1 << 20) + 1));
        assert_eq!(
            read(long.as_bytes()),
            [record(1, &["a"]), Err("line 2: it is longer than 1 MiB".to_owned()), record(3, &["b"])]
        );
        assert_eq!(read(b"\xff\xfea\0\n\0b\0").len(), 1);
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_file_without_end_is_given_up() {
        let endless = io::Cursor::new("a\n").chain(io::repeat(0));
        let told: Vec<_> = Records::new(endless).map(|record| record.map(|record| record.line)).collect();
        assert!(matches!(told[..], [Ok(1), Err(RecordError::Endless { line: 2, .. })]), "{told:?}");
    }

    #[test]
    fn a_file_has_so_many_lines_at_most() {
        for more in ["c\nd\n", "\n\n\n\n"] {
            let mut records = Records::new(io::Cursor::new(format!("a\nb\n{more}")));
            records.most = 3;
            let told: Vec<_> = records.map(|record| record.map(|record| record.line)).collect();
            assert!(matches!(told[..2], [Ok(1), Ok(2)]), "{told:?}");
            assert!(matches!(told.last(), Some(Err(RecordError::Endless { line: 4, .. }))), "{told:?}");
        }
    }

    #[test]
    fn fields_are_read_in_their_encoding() {
        let (gbk, _, _) = encoding_rs::GBK.encode("商户订单号,金额");
        let record = Records::new(io::Cursor::new(gbk.into_owned())).next().unwrap().unwrap();
        assert_eq!(record.text(0, UTF_8), None);
        assert_eq!(guess(&record).name(), "gb18030");
        assert_eq!(record.text(1, encoding("GBK").unwrap()).unwrap(), "金额");
        assert!(encoding("utf-16le").is_err() && encoding("nonsense").is_err());
    }
}
