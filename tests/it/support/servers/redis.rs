//! A Redis server of a test's own, which it may stop, slow down, fill or wipe.

use std::ffi::OsString;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::child::{ChildProcess, free_port};
use super::installed;

pub struct Redis {
    server: ChildProcess,
    port: u16,
}

/// A new server with nothing in it; `None` where it is not installed.
pub async fn redis() -> Option<Redis> {
    redis_with(&[]).await
}

/// With further settings, as on its command line (`--maxmemory 1mb`).
pub async fn redis_with(settings: &[&str]) -> Option<Redis> {
    if !installed("redis-server") {
        return None;
    }
    let port = free_port();
    let dir = tempfile::tempdir().unwrap().keep();
    let text = port.to_string();
    let fixed = ["redis-server", "--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
    let mut command: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    command.push(dir.clone().into());
    command.extend(settings.iter().map(OsString::from));
    let redis = Redis { server: ChildProcess::start("Redis", dir, command), port };
    redis.ready().await;
    Some(redis)
}

impl Redis {
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn ready(&self) {
        self.server.until(async || self.ask("PING").await.is_some_and(|reply| reply.starts_with("+PONG"))).await;
    }

    /// One command as typed into a console, and the first part of the answer; `None` when the server is away.
    pub async fn ask(&self, command: &str) -> Option<String> {
        let talk = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut buffer = vec![0; 64 * 1024];
            let length = stream.read(&mut buffer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        tokio::time::timeout(Duration::from_secs(5), talk).await.ok()?.ok()
    }

    /// Forgets everything, as an operator may at any moment.
    pub async fn flush(&self) {
        assert_eq!(self.ask("FLUSHALL").await.as_deref(), Some("+OK\r\n"));
    }

    pub fn kill(&self) {
        self.server.kill();
    }

    /// After `kill`: empty, on the same port.
    pub async fn start_again(&self) {
        self.server.start_again();
        self.ready().await;
    }

    /// Accepts connections and never answers, until `go_on`.
    pub fn freeze(&self) {
        self.server.signal("STOP");
    }

    pub fn go_on(&self) {
        self.server.signal("CONT");
    }
}
