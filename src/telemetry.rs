//! Logs and metrics. Neither ever blocks or fails a business transaction.

mod metrics;
mod seldom;

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use metrics::Metrics;
pub use seldom::Seldom;

use crate::config::{Log, LogFormat};

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` or `log.filter` is not a list of directives.
    #[error("{origin} is not a log filter")]
    Filter {
        /// `RUST_LOG` or `log.filter`.
        origin: &'static str,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is installed already.
    #[error("logging was started twice")]
    Twice,
}

/// How much to log, from the command line: above 0 more, below 0 less.
pub type Verbosity = i8;

/// Nothing is logged, unless `RUST_LOG` asks for it.
pub const SILENT: Verbosity = -2;

/// Sends `tracing` events to stderr: for people on a terminal, else one JSON object per line.
///
/// The filter is `RUST_LOG`, else what `verbosity` asks for, else `log.filter`. Targets in `noisy` are silent unless
/// the filter names them.
///
/// # Errors
/// A filter that does not parse, or a second call.
pub fn init(log: &Log, verbosity: Verbosity, noisy: &[&str]) -> Result<(), TelemetryError> {
    let from_env = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (origin, directives) = match from_env {
        Some(text) => ("RUST_LOG", text),
        None => ("log.filter", filter_for(verbosity, &log.filter)),
    };
    let filter = env_filter(&directives, noisy).map_err(|source| TelemetryError::Filter { origin, source })?;
    let human = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    install(filter, human, io::stderr).map_err(|_| TelemetryError::Twice)
}

fn install<W>(filter: EnvFilter, human: bool, writer: W) -> Result<(), tracing_subscriber::util::TryInitError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    use tracing_subscriber::util::SubscriberInitExt;

    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    if human {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(color).finish().try_init()
    } else {
        builder.json().flatten_event(true).finish().try_init()
    }
}

fn filter_for(verbosity: Verbosity, configured: &str) -> String {
    match verbosity {
        ..=SILENT => "off".to_owned(),
        -1 => "error".to_owned(),
        0 => configured.to_owned(),
        1 => "ruyi=debug,info".to_owned(),
        _ => "ruyi=trace,debug".to_owned(),
    }
}

/// Silenced targets come first: a directive of the user for the same target replaces them.
fn env_filter(directives: &str, noisy: &[&str]) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let silent = noisy.iter().map(|target| format!("{target}=off"));
    let all: Vec<String> = silent.chain(std::iter::once(directives.to_owned())).collect();
    EnvFilter::try_new(all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tracing_subscriber::layer::SubscriberExt;

    fn hears(directives: &str, noisy: &[&str]) -> (bool, bool) {
        let subscriber = tracing_subscriber::registry().with(env_filter(directives, noisy).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            (
                tracing::enabled!(target: "noisy::part", tracing::Level::ERROR),
                tracing::enabled!(target: "ruyi", tracing::Level::INFO),
            )
        })
    }

    #[test]
    fn noisy_targets_are_silent_unless_asked_for() {
        assert_eq!(hears("info", &["noisy"]), (false, true));
        assert_eq!(hears("info", &[]), (true, true));
        assert_eq!(hears("noisy=debug,info", &["noisy"]), (true, true));
        assert_eq!(hears(&filter_for(-1, "info"), &["noisy"]), (false, false));
        assert_eq!(hears(&filter_for(2, "error"), &["noisy"]), (false, true));
    }

    #[test]
    fn metrics_have_the_documented_names() {
        let metrics = Metrics::new().unwrap();
        metrics.sent("ORDER_CREATED", "ok", 3, Duration::from_millis(2));
        metrics.consumed("ORDER_CREATED", "stock", "done", 2);
        metrics.consume_seconds("ORDER_CREATED", "stock").observe(0.1);
        metrics.outbox(5, 2_500);
        metrics.retry_pending(1);
        metrics.delivered("notify", "ok");
        metrics.request("/orders/{id}", "GET", 200, Duration::from_millis(1));
        metrics.orders("PAID", 4);
        let text = metrics.encode().unwrap();
        for line in [
            r#"rocketmq_producer_send_total{result="ok",topic="ORDER_CREATED"} 3"#,
            r#"rocketmq_producer_send_duration_seconds_count{topic="ORDER_CREATED"} 1"#,
            r#"rocketmq_consumer_consume_total{group="stock",result="done",topic="ORDER_CREATED"} 2"#,
            r#"rocketmq_consumer_consume_duration_seconds_count{group="stock",topic="ORDER_CREATED"} 1"#,
            "ruyi_outbox_pending 5",
            "ruyi_outbox_oldest_age_seconds 2",
            "ruyi_retry_pending 1",
            r#"ruyi_delivery_total{kind="notify",result="ok"} 1"#,
            r#"ruyi_http_requests_total{method="GET",route="/orders/{id}",status="200"} 1"#,
            r#"ruyi_http_request_duration_seconds_count{route="/orders/{id}"} 1"#,
            r#"ruyi_orders_total{status="PAID"} 4"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
