//! `ruyi healthcheck`: what a container asks again and again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::{Usage, WithHelp};
use crate::config::{Config, ConfigError, Millis};

/// What of an answer is shown.
const SHOWN: usize = 400;

/// Ask a URL whether it is well: exit code 0 for an answer of 2xx, 1 for anything else
///
/// One GET, with no retry, no redirect, and never through a proxy. With a URL the configuration is not read; without
/// one it says where `ruyi serve all` listens (http.all), and /readyz there is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 well, 1 not (the reason is on stderr), 2 wrong usage.

Examples:
  ruyi healthcheck http://127.0.0.1:8081/readyz
  ruyi healthcheck --timeout 1s http://127.0.0.1:8081/healthz
  HEALTHCHECK --interval=10s CMD [\"ruyi\", \"healthcheck\", \"http://127.0.0.1:8081/healthz\"]   (Dockerfile)")]
pub struct Args {
    /// http:// or https:// URL [default: /readyz of http.all]
    url: Option<String>,

    /// Time for the whole answer
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    timeout: Millis,
}

impl Args {
    /// Asks, on a runtime of its own: one thread is enough, and quick to start.
    ///
    /// # Errors
    /// Those of [`Args::run`].
    pub fn run_alone(&self, config: impl FnOnce() -> Result<Config, ConfigError>) -> anyhow::Result<ExitCode> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.run(config))
    }

    /// Asks; `config` is called only when no URL was given.
    ///
    /// # Errors
    /// The URL is not one, or what it leads to is not well.
    pub async fn run(&self, config: impl FnOnce() -> Result<Config, ConfigError>) -> anyhow::Result<ExitCode> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => ready_url(config()?.http.all)?,
        };
        let parsed = url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(parsed) = parsed else {
            return Err(Usage(format!("{url:?} is not an http:// or https:// URL")).into());
        };
        ask(parsed, self.timeout.duration()).await.with_context(|| format!("not well: {url}"))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn ready_url(addr: SocketAddr) -> anyhow::Result<String> {
    if addr.port() == 0 {
        let unknown = anyhow::anyhow!("http.all has port 0: nobody knows where it listens");
        return Err(unknown).help("name the URL: ruyi healthcheck http://127.0.0.1:8080/readyz");
    }
    // What listens everywhere is asked here.
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(format!("http://{}/readyz", SocketAddr::new(ip, addr.port())))
}

async fn ask(url: url::Url, timeout: Duration) -> anyhow::Result<()> {
    let asked = async {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        let mut answer = client.get(url).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let mut body = Vec::new();
        while body.len() < SHOWN
            && let Ok(Some(part)) = answer.chunk().await
        {
            body.extend_from_slice(&part);
        }
        body.truncate(SHOWN);
        let said = crate::output::printable(String::from_utf8_lossy(&body).trim());
        Err(anyhow::anyhow!("{status}{}{said}", if said.is_empty() { "" } else { ": " }))
    };
    let late = || anyhow::anyhow!("no answer within {} ms", timeout.as_millis());
    tokio::time::timeout(timeout, asked).await.map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_here() {
        let url = |addr: &str| ready_url(addr.parse().unwrap()).ok();
        assert_eq!(url("0.0.0.0:80").as_deref(), Some("http://127.0.0.1:80/readyz"));
        assert_eq!(url("[::]:80").as_deref(), Some("http://[::1]:80/readyz"));
        assert_eq!(url("10.0.0.1:80").as_deref(), Some("http://10.0.0.1:80/readyz"));
        assert_eq!(url("127.0.0.1:0"), None);
    }
}
