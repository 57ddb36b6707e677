//! Offsets of a group in a file, and back.

use std::collections::BTreeSet;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::change::{Guard, Job, carry_out};
use super::plan::{self, Move};
use super::position::Position;
use crate::cmd::confirm::Change;
use crate::cmd::mq::silent;
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
}

#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// File that `snapshot`, `reset`, `skip` or `clone` wrote
    file: PathBuf,
    #[command(flatten)]
    guard: Guard,
    #[command(flatten)]
    change: Change,
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
    /// Topics that were looked at.
    pub topics: Vec<String>,
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
    pub async fn of(
        mq: &RocketMq,
        group: &str,
        topics: impl IntoIterator<Item = &str>,
        now_ms: i64,
    ) -> anyhow::Result<Self> {
        let (mut seen, mut offsets) = (Vec::new(), Vec::new());
        for topic in topics {
            seen.push(topic.to_owned());
            for queue in mq.committed(group, topic).await? {
                let Some(offset) = queue.consumer_offset else { continue };
                let QueueId { topic, broker, queue } = queue.queue;
                offsets.push(Saved { topic, broker, queue, offset });
            }
        }
        Ok(Self { version: VERSION, group: group.to_owned(), taken_ms: now_ms, topics: seen, offsets })
    }

    /// Where the group was in a queue; none: it had committed nothing there.
    #[must_use]
    pub fn offset_of(&self, queue: &QueueId) -> Option<i64> {
        let is =
            |saved: &&Saved| (&saved.topic, &saved.broker, saved.queue) == (&queue.topic, &queue.broker, queue.queue);
        self.offsets.iter().find(is).map(|saved| saved.offset)
    }

    /// Writes it under the data directory; nothing may be changed when that fails.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, data_dir: &Path) -> anyhow::Result<PathBuf> {
        let dir = data_dir.join("snapshots");
        let file = dir.join(format!("{}-{}.json", crate::cmd::mq::file_name(&self.group), self.taken_ms));
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
    // A snapshot without the offsets of a broker would be taken for a whole one.
    silent::refuse(mq, None).await?;
    let topics = plan::topics(mq, &args.group, args.topic.as_deref()).await?;
    let snapshot = Snapshot::of(mq, &args.group, topics.iter().map(String::as_str), context.clock.now_ms()).await?;
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
    if snapshot.version != VERSION {
        anyhow::bail!("{shown} is of version {}, which this ruyi does not know", snapshot.version);
    }
    silent::refuse(mq, None).await?;
    let now_ms = context.clock.now_ms();
    let topics: BTreeSet<&str> =
        snapshot.offsets.iter().map(|saved| &saved.topic).chain(&snapshot.topics).map(String::as_str).collect();
    let (mut moves, mut left) = (Vec::new(), 0);
    for topic in topics {
        plan::topics(mq, &snapshot.group, Some(topic)).await?;
        let current = plan::moves(mq, &snapshot.group, topic, Position::By(0), None, now_ms).await?;
        for saved in snapshot.offsets.iter().filter(|saved| saved.topic == topic) {
            let found = current.iter().find(|one| one.broker == saved.broker && one.queue == saved.queue);
            let Some(found) = found else {
                anyhow::bail!("{topic} has no queue {} on broker {} any more", saved.queue, saved.broker);
            };
            let end = found.end;
            if !(0..=end).contains(&saved.offset) {
                let text = format!(
                    "{topic} {}:{} ends at {end}, and {shown} says {}",
                    saved.broker, saved.queue, saved.offset
                );
                return Err(anyhow::anyhow!(text))
                    .help("it was taken of another topic of this name, or changed; nothing was done");
            }
            // Exactly what was saved, also where the messages have expired: the broker corrects it as it would have.
            let again = found.before.unwrap_or(saved.offset) - saved.offset;
            moves.push(Move { after: saved.offset, again, ..found.clone() });
        }
        for one in current.iter().filter(|one| one.before.is_some()) {
            if snapshot.offset_of(&one.queue_id()).is_none() {
                let queue = format!("{topic} {}:{}", one.broker, one.queue);
                writeln!(stderr(), "{queue}: nothing was committed there when the snapshot was taken: left as it is")?;
                left += 1;
            }
        }
    }
    let job = Job { command: "mq offsets restore", group: &snapshot.group, guard: &args.guard, change: &args.change };
    let code = carry_out(context, mq, &job, moves).await?;
    if left > 0 {
        // Brokers forget no offset of a single queue.
        let command = format!("ruyi mq offsets reset {} --topic TOPIC --queue BROKER:N --to start|end", snapshot.group);
        writeln!(
            stderr(),
            "{left} queues are not as they were; `{command}` sets one where its consumer would have begun"
        )?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(code)
}
