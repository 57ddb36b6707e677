//! Following a topic.

use std::process::ExitCode;
use std::time::Duration;

use super::row::Row;
use crate::cmd::Context;
use crate::cmd::mq::cluster::Where;
use crate::cmd::mq::offsets::{Position, plan};
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::RocketMq;
use crate::output::{Format, Output};
use crate::shutdown::Shutdown;

/// Messages asked for at once.
const PAGE: i32 = 64;
/// The pause when no queue had anything.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic as it is called on the broker
    topic: String,
    /// From there: end, start, @-10m, -N messages in each queue
    #[arg(long, value_name = "POSITION", default_value = "end", allow_hyphen_values = true)]
    from: Position,
    /// Only messages with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only messages with this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only messages with this text in the body
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// Stop after so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) place: Where,
}

impl Args {
    fn takes(&self, message: &StoredMessage) -> bool {
        let has = |text: &String| memchr::memmem::find(&message.body, text.as_bytes()).is_some();
        self.tag.as_ref().is_none_or(|tag| message.tag == *tag)
            && self.key.as_ref().is_none_or(|key| message.key.split(' ').any(|one| one == key))
            && self.contains.as_ref().is_none_or(has)
    }
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let addrs = plan::addrs(mq).await?;
    let mut queues = plan::positions(mq, &args.topic, args.from, context.clock.now_ms()).await?;
    // A table is written at its end; this has none.
    let format = if context.format() == Format::Table { Format::Jsonl } else { context.format() };
    let mut output = Output::stdout(format);
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 && !shutdown.token.is_cancelled() {
        let mut came = false;
        for (queue, offset) in &mut queues {
            let Some(addr) = addrs.get(&queue.broker) else { continue };
            let page = mq.read_queue(addr, queue, *offset, PAGE).await?;
            came |= !page.messages.is_empty();
            for message in page.messages.iter().filter(|message| args.takes(message)) {
                if left > 0 {
                    output.row(&Row::of(message))?;
                    left -= 1;
                }
            }
            *offset = page.next.max(*offset);
        }
        output.flush()?;
        if !came {
            tokio::select! {
                () = shutdown.token.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
