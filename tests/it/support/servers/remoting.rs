//! RocketMQ's own protocol by hand, for what no client sends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);

/// One request on a connection of its own: header and body of the answer; `None` where nobody answers in clear.
pub async fn ask(addr: &str, code: u32, fields: Value, body: &[u8]) -> Option<(Value, Vec<u8>)> {
    let header = json!({"code": code, "language": "OTHER", "version": 0, "opaque": 1, "flag": 0, "extFields": fields,
        "serializeTypeCurrentRPC": "JSON"});
    let header = header.to_string();
    let sizes = [4 + header.len() + body.len(), header.len()].map(|size| u32::try_from(size).unwrap().to_be_bytes());
    let request = [&sizes[0], &sizes[1], header.as_bytes(), body].concat();

    let mut server = TcpStream::connect(addr).await.ok()?;
    server.write_all(&request).await.ok()?;
    let length = tokio::time::timeout(TIMEOUT, server.read_u32()).await.ok()?.ok()?;
    let mut answer = vec![0; usize::try_from(length).unwrap()];
    server.read_exact(&mut answer).await.ok()?;

    // The first byte of the header's length says how it is written: 0 is JSON.
    let (size, rest) = answer.split_first_chunk()?;
    let (header, body) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).unwrap())?;
    Some((serde_json::from_slice(header).ok()?, body.to_vec()))
}
