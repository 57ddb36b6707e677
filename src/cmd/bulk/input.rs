//! Lines from the command line, a file or stdin, read no faster than they are worked on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::cmd::Usage;
use crate::domain::id::OrderId;

/// Lines read ahead.
const AHEAD: usize = 64;
/// A longer line is refused, so that a file without line ends is not taken into memory.
const LINE_MAX_BYTES: u64 = 1 << 20;
/// What is skipped of such a line: one that goes on may have no end.
const SKIPPED_MAX_BYTES: u64 = 16 << 20;

/// One item of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its line in the input, or its place among the arguments; from 1.
    pub number: u64,
    /// What stands there, without the line end.
    pub text: String,
}

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct LineError {
    /// Its line in the input, from 1.
    pub number: u64,
    why: String,
}

/// A line, or why there is none.
pub type Item = Result<Line, LineError>;

/// The arguments themselves, or the lines of stdin for a single `-`.
///
/// # Errors
/// `-` among others: [`Usage`].
pub fn from_args(args: &[String]) -> anyhow::Result<BoxStream<'static, Item>> {
    if args == ["-"] {
        return from_reader(io::stdin());
    }
    if args.iter().any(|arg| arg == "-") {
        return Err(Usage("\"-\" (stdin) stands alone".to_owned()).into());
    }
    let lines: Vec<Item> = (1..).zip(args).map(|(number, text)| Ok(Line { number, text: text.clone() })).collect();
    Ok(stream::iter(lines).boxed())
}

/// The lines of a file; `-` is stdin.
///
/// # Errors
/// The file cannot be opened.
pub fn from_file(path: &Path) -> anyhow::Result<BoxStream<'static, Item>> {
    if path.as_os_str() == "-" {
        return from_reader(io::stdin());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_reader(file)
}

/// Reads in a thread of its own: one that blocks on a terminal or a pipe holds up neither the work nor the end of the
/// process, which a task of the runtime would.
fn from_reader(reader: impl Read + Send + 'static) -> anyhow::Result<BoxStream<'static, Item>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || read_lines(BufReader::new(reader), &sender))
        .context("cannot start a thread for the input")?;
    Ok(stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed())
}

fn read_lines(mut reader: impl BufRead, sender: &mpsc::Sender<Item>) {
    for number in 1.. {
        let (item, last) = match read_line(&mut reader) {
            Ok(None) => return,
            Ok(Some(Ok(text))) if text.trim().is_empty() => continue,
            Ok(Some(Ok(text))) => (Ok(Line { number, text }), false),
            Ok(Some(Err(why))) => (Err(LineError { number, why: why.to_owned() }), false),
            Err(error) => (Err(LineError { number, why: format!("the input cannot be read: {error}") }), true),
        };
        if sender.blocking_send(item).is_err() || last {
            return;
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Result<String, &'static str>>> {
    let mut bytes = Vec::new();
    if reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    } else if u64::try_from(bytes.len()) == Ok(LINE_MAX_BYTES) {
        let mut rest = reader.by_ref().take(SKIPPED_MAX_BYTES);
        rest.skip_until(b'\n')?;
        if rest.limit() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of it is longer than 16 MiB"));
        }
        return Ok(Some(Err("the line is longer than 1 MiB")));
    }
    Ok(Some(String::from_utf8(bytes).map_err(|_| "the line is not UTF-8")))
}

/// An order id: plain (`123`), or the field `orderId` of a JSON object.
///
/// # Errors
/// It is neither.
pub fn id_of(text: &str) -> anyhow::Result<OrderId> {
    let text = text.trim();
    if text.starts_with('{') {
        return order_id(&object_of(text)?);
    }
    Ok(text.trim_matches('"').parse()?)
}

/// The field `orderId` of an object.
///
/// # Errors
/// It is missing or not an id.
pub fn order_id(object: &Map<String, Value>) -> anyhow::Result<OrderId> {
    let value = object.get("orderId").context("the line has no orderId")?;
    Ok(serde_json::from_value(value.clone())?)
}

/// A JSON object.
///
/// # Errors
/// It is something else.
pub fn object_of(text: &str) -> anyhow::Result<Map<String, Value>> {
    match serde_json::from_str(text).context("the line is not JSON")? {
        Value::Object(object) => Ok(object),
        _ => anyhow::bail!("the line is JSON, but not an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: Vec<u8>) -> Vec<(u64, Result<String, String>)> {
        let lines: Vec<Item> = from_reader(io::Cursor::new(bytes)).unwrap().collect().await;
        lines
            .into_iter()
            .map(|item| match item {
                Ok(line) => (line.number, Ok(line.text)),
                Err(error) => (error.number, Err(error.why)),
            })
            .collect()
    }

    #[tokio::test]
    async fn lines_keep_their_numbers() {
        let lines = read(b"a\r\n\n  \nb\n\xff\nc".to_vec()).await;
        let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 4, 5, 6]);
        assert_eq!(lines[1].1.as_deref(), Ok("b"));
        assert_eq!(lines[2].1.as_ref().unwrap_err(), "the line is not UTF-8");
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        let lines: Vec<Item> = from_reader(io::repeat(0)).unwrap().collect().await;
        let told: Vec<&LineError> = lines.iter().map(|line| line.as_ref().unwrap_err()).collect();
        assert!(matches!(&told[..], [only] if only.number == 1 && only.why.contains("16 MiB")), "{told:?}");
    }

    #[tokio::test]
    async fn a_long_line_is_one_failure() {
        let mut bytes = vec![b'x'; 3 << 20];
        bytes.extend_from_slice(b"\nnext\n");
        let lines = read(bytes).await;
        assert_eq!(lines.len(), 2);
        assert!(lines[0].1.is_err());
        assert_eq!(lines[1], (2, Ok("next".to_owned())));
    }

    #[test]
    fn ids_in_every_form() {
        for good in ["12", " 12 ", "\"12\"", "{\"orderId\":\"12\",\"x\":1}", "{\"orderId\":12}"] {
            assert_eq!(id_of(good).unwrap(), OrderId(12), "{good}");
        }
        for bad in ["", "x", "{}", "{\"orderId\":\"x\"}", "{", "[12]"] {
            assert!(id_of(bad).is_err(), "{bad}");
        }
    }
}
