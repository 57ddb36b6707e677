//! What a cluster is to have: the catalogue of events, and a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::edit::{Allow, MessageType, check_name};
use crate::cmd::{Usage, WithHelp};
use crate::config::Config;
use crate::domain::event::{Group, Kind};
use crate::mq::operate::Permission;
use crate::mq::rocketmq::RocketMq;

/// Most queues that a topic can be given.
pub(super) const MAX_QUEUES: u32 = 1024;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Source {
    /// Wanted topics and groups (TOML); they go before the catalogue's
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Only what the file says: none of ruyi's own topics and groups, nor those of anybody else
    #[arg(long, requires = "file")]
    no_catalogue: bool,
}

/// What a cluster is to have, by name on the broker. What it does not say may be as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What it does not name is not looked at.
    pub is_all: bool,
    pub topics: BTreeMap<String, Topic>,
    pub groups: BTreeMap<String, Subscriptions>,
}

/// A wanted topic, on every broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topic {
    /// It is not to be there.
    pub absent: bool,
    pub queues: Option<u32>,
    /// More queues are as good.
    pub at_least: bool,
    pub permission: Option<Permission>,
    pub message_type: Option<MessageType>,
}

/// Topic → filter, the same for every member of a group; none: any.
pub(super) type Subscriptions = Option<BTreeMap<String, String>>;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    topics: BTreeMap<String, FileTopic>,
    #[serde(default)]
    groups: BTreeMap<String, FileGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTopic {
    queues: Option<u32>,
    permission: Option<Allow>,
    #[serde(rename = "type")]
    message_type: Option<MessageType>,
    #[serde(default)]
    absent: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGroup {
    subscriptions: Option<BTreeMap<String, String>>,
}

impl Wanted {
    /// The catalogue, unless it is not wanted, and over it the file.
    ///
    /// # Errors
    /// The file cannot be read; [`Usage`] when it says what makes no sense.
    pub fn of(config: &Config, mq: &RocketMq, source: &Source) -> anyhow::Result<Self> {
        let only_file = || Self { is_all: true, ..Self::default() };
        let mut wanted = if source.no_catalogue { only_file() } else { Self::of_catalogue(config, mq) };
        if let Some(path) = &source.file {
            let file = Self::of_file(path)?;
            wanted.topics.extend(file.topics);
            wanted.groups.extend(file.groups);
        }
        Ok(wanted)
    }

    fn of_catalogue(config: &Config, mq: &RocketMq) -> Self {
        let mut wanted = Self::default();
        let place = |kind: Kind| {
            let tag = config.mq.topics.get(kind.name()).and_then(|topic| topic.split_once(':'));
            let topic = mq.with_namespace(config.mq.physical_topic(kind.name()));
            (topic, tag.map_or("*", |(_, tag)| tag).to_owned())
        };
        for kind in Kind::ALL {
            let queues = Some(config.mq.queues);
            let topic = Topic { queues, at_least: true, permission: Some(Permission::ReadWrite), ..Topic::default() };
            wanted.topics.insert(place(kind).0, topic);
        }
        for group in Group::ALL {
            wanted.groups.insert(mq.with_namespace(group.name()), Some(group.events().map(place).collect()));
        }
        wanted
    }

    fn of_file(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let parsed = Self::parse(&text).map_err(|why| Usage(format!("{shown}: {why}")));
        parsed.help("docs/wanted.example.toml in ruyi's sources and `ruyi mq topics plan --help` show the format")
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut wanted = Self::default();
        for (name, topic) in file.topics {
            check_name(&name).map_err(|error| error.to_string())?;
            if topic.queues.is_some_and(|queues| !(1..=MAX_QUEUES).contains(&queues)) {
                return Err(format!("topic {name}: queues must be from 1 to {MAX_QUEUES}"));
            }
            let says_more = topic.queues.is_some() || topic.permission.is_some() || topic.message_type.is_some();
            if topic.absent && says_more {
                return Err(format!("topic {name}: what is to be absent has no queues, permission or type"));
            }
            let topic = Topic {
                absent: topic.absent,
                queues: topic.queues,
                at_least: false,
                permission: topic.permission.map(Permission::from),
                message_type: topic.message_type,
            };
            wanted.topics.insert(name, topic);
        }
        for (name, group) in file.groups {
            check_name(&name).map_err(|_| format!("{name:?} is no group name"))?;
            wanted.groups.insert(name, group.subscriptions);
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_file() {
        let wanted = Wanted::parse(include_str!("../../../../docs/wanted.example.toml")).unwrap();
        assert_eq!(wanted.topics["order-created"].message_type, Some(MessageType::Fifo));
        assert!(wanted.topics["old-orders"].absent);
        assert_eq!(wanted.groups["billing"].as_ref().unwrap()["payment-success"], "pay || refund");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "[topics.a]\nqueue = 3",
            "[topics.a]\nqueues = 0",
            "[topics.a]\ntype = \"quick\"",
            "[topics.\"a.b\"]",
            "[topics.a]\nabsent = true\nqueues = 3",
            "[groups.a]\nsubscriptions = [\"b\"]",
            "topics",
        ] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }
}
