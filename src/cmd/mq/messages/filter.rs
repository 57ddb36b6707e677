//! Which messages are shown.

use crate::mq::operate::StoredMessage;

/// What a message has to be to be shown: all that is said here.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct Filter {
    /// With this key (one of its KEYS)
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(super) key: Option<String>,
    /// With this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// With this property; may be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// With this text in the body
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    contains: Option<String>,
}

/// `NAME=VALUE`.
pub(super) fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

impl Filter {
    pub(super) fn takes(&self, message: &StoredMessage) -> bool {
        self.tag.as_ref().is_none_or(|tag| message.tag == *tag)
            && self.key.as_ref().is_none_or(|key| message.has_key(key))
            && self.properties.iter().all(|(name, value)| message.property(name) == Some(value))
            && self.contains.as_ref().is_none_or(|text| memchr::memmem::find(&message.body, text.as_bytes()).is_some())
    }
}
