//! Messages to users outside the application.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::notice::{Language, Topic};

/// The texts that are compiled in: documentation, and the defaults below `notices.templates`.
pub const NOTICES_EXAMPLE: &str = include_str!("../../notices.example.toml");

/// SMS and e-mail.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notices {
    /// Of users who have chosen none.
    pub language: Language,
    /// Provider of text messages.
    pub sms: Sms,
    /// Mail server.
    pub email: Email,
    /// Texts by name.
    pub templates: BTreeMap<String, Template>,
}

/// The provider of text messages.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sms {
    /// URL that each message is posted to; empty: none is sent.
    #[serde(serialize_with = "super::secret::shown")]
    pub endpoint: String,
    /// Key of the signature; empty: unsigned.
    #[serde(serialize_with = "super::secret::masked")]
    pub secret: SecretString,
    /// Name of the sender, as registered with the provider.
    pub sign_name: String,
}

/// The mail server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// Its name; empty: no e-mail is sent.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// PEM file of the authority that signs its certificate; empty: those of the machine.
    pub ca_file: String,
    /// Who logs in; empty: nobody does.
    pub user: String,
    /// The password.
    #[serde(serialize_with = "super::secret::masked")]
    pub password: SecretString,
    /// Sender: an address, or `Name <address>`.
    pub from: String,
    /// Name of this machine for the server (EHLO); empty: the domain of the sender.
    pub hello: String,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// TLS after STARTTLS, or nothing is sent.
    Starttls,
    /// TLS from the beginning.
    Tls,
    /// Not at all.
    None,
}

/// One text, in every language.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// What it is about.
    #[serde(default)]
    pub topic: Topic,
    /// What it may be filled with besides `orderId`.
    #[serde(default)]
    pub params: Vec<String>,
    /// Chinese.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zh: Option<Text>,
    /// English.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub en: Option<Text>,
}

/// One text in one language. An empty one is not sent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// As a text message.
    #[serde(default)]
    pub sms: String,
    /// Subject of the e-mail.
    #[serde(default)]
    pub subject: String,
    /// The e-mail, plain text.
    #[serde(default)]
    pub body: String,
}

impl Template {
    /// In a language.
    #[must_use]
    pub fn text(&self, language: Language) -> Option<&Text> {
        match language {
            Language::Zh => self.zh.as_ref(),
            Language::En => self.en.as_ref(),
        }
    }
}
