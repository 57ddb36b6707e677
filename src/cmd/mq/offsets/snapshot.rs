//! Offsets of a group in a file, and back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::change::{Guard, carry_out};
use super::plan::{self, Move};
use crate::cmd::confirm::Change;
use crate::cmd::mq::cluster::Where;
use crate::cmd::{Context, WithHelp};
use crate::mq::message::QueueId;
use crate::mq::rocketmq::RocketMq;
use crate::output::VERSION;

#[derive(Debug, clap::Args)]
pub(super) struct Take {
    /// Consumer group
    group: String,
    /// Only this topic [default: every topic that it has consumed from]
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// File that `snapshot`, `reset`, `skip` or `clone` wrote
    file: PathBuf,
    #[command(flatten)]
    guard: Guard,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

/// The offsets of a group at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// Version of this format.
    pub version: u32,
    /// Group.
    pub group: String,
    /// When it was taken, epoch ms.
    pub taken_ms: i64,
    /// Queues where the group had committed something.
    pub offsets: Vec<Saved>,
}

/// One queue of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Saved {
    /// Topic.
    pub topic: String,
    /// Broker.
    pub broker: String,
    /// Queue.
    pub queue: i32,
    /// Offset of the next message to consume.
    pub offset: i64,
}

impl Snapshot {
    /// What the group has committed in `topics` now.
    ///
    /// # Errors
    /// The cluster cannot be read.
    pub async fn of(mq: &RocketMq, group: &str, topics: &[String], now_ms: i64) -> anyhow::Result<Self> {
        let mut offsets = Vec::new();
        for topic in topics {
            for queue in mq.committed(group, topic).await? {
                let Some(offset) = queue.consumer_offset else { continue };
                let QueueId { topic, broker, queue } = queue.queue;
                offsets.push(Saved { topic, broker, queue, offset });
            }
        }
        Ok(Self { version: VERSION, group: group.to_owned(), taken_ms: now_ms, offsets })
    }

    /// Writes it under the data directory; nothing may be changed when that fails.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<PathBuf> {
        let dir = data_dir.join("snapshots");
        let file = dir.join(format!("{}-{}.json", self.group.replace(['/', '\\'], "_"), self.taken_ms));
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir_all(&dir)?;
            let text = serde_json::to_vec_pretty(self)?;
            std::fs::write(&file, text)?;
            std::fs::File::open(&file)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("cannot write the snapshot {}, so nothing was changed", file.display()))?;
        Ok(file)
    }
}

/// Prints a snapshot.
pub(super) async fn take(context: &Context, mq: &RocketMq, args: &Take) -> anyhow::Result<ExitCode> {
    let topics = plan::topics(mq, &args.group, args.topic.as_deref()).await?;
    let snapshot = Snapshot::of(mq, &args.group, &topics, context.clock.now_ms()).await?;
    let mut output = context.output();
    output.text(&format!("{}\n", serde_json::to_string_pretty(&snapshot)?))?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Sets offsets back.
pub(super) async fn restore(context: &Context, mq: &RocketMq, args: &Restore) -> anyhow::Result<ExitCode> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {shown}"))?;
    let snapshot: Snapshot =
        serde_json::from_str(&text).with_context(|| format!("{shown} is no snapshot")).help("`snapshot` writes one")?;
    let now_ms = context.clock.now_ms();
    let mut topics: Vec<String> = snapshot.offsets.iter().map(|saved| saved.topic.clone()).collect();
    topics.sort();
    topics.dedup();
    let mut moves = Vec::new();
    for topic in &topics {
        let current = plan::moves(mq, &snapshot.group, topic, super::position::Position::By(0), None, now_ms).await?;
        for saved in snapshot.offsets.iter().filter(|saved| saved.topic == *topic) {
            let found = current.iter().find(|one| one.broker == saved.broker && one.queue == saved.queue);
            let Some(found) = found else {
                anyhow::bail!("{topic} has no queue {} on broker {} any more", saved.queue, saved.broker);
            };
            // Exactly what was saved, also where the messages have expired: the broker corrects it as it would have.
            let again = found.before.unwrap_or(saved.offset) - saved.offset;
            moves.push(Move { after: saved.offset, again, ..found.clone() });
        }
    }
    carry_out(context, mq, &snapshot.group, moves, "mq offsets restore", &args.guard, &args.change).await
}
