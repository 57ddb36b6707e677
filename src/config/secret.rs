//! Secrets in the configuration: kept out of Debug, out of `config show`, and out of error messages.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// What stands in for a secret that is set.
pub const MASK: &str = "********";

/// `serialize_with` for [`SecretString`] fields: the mask, or nothing when the secret is not set.
pub(super) fn masked<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if secret.expose_secret().is_empty() { "" } else { MASK })
}

/// A URL that may carry a password (`mysql://user:password@host/db`); empty means "not set".
#[derive(Clone, Default)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    /// The URL as written, password included.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// True when no URL is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// The part before `://`, or nothing.
    #[must_use]
    pub fn scheme(&self) -> Option<&str> {
        self.expose().split_once("://").map(|(scheme, _)| scheme)
    }

    /// The URL with its password, and query values that name a secret, replaced by the mask; safe to print.
    #[must_use]
    pub fn masked(&self) -> String {
        let text = self.expose();
        match Url::parse(text) {
            // Whatever does not parse may hide its password anywhere.
            Err(_) if text.contains('@') => MASK.to_owned(),
            Err(_) => text.to_owned(),
            Ok(mut url) => {
                if url.password().is_none() && url.query().is_none() {
                    return text.to_owned();
                }
                if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
                    return MASK.to_owned();
                }
                let pairs: Vec<String> = url.query_pairs().map(|(name, value)| mask_pair(&name, &value)).collect();
                if !pairs.is_empty() {
                    url.set_query(Some(&pairs.join("&")));
                }
                url.to_string()
            }
        }
    }
}

/// Query options such as `ssl-mode` help whoever reads the output; only those that name a secret are hidden.
fn mask_pair(name: &str, value: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let hide = ["password", "secret", "token", "key"].iter().any(|word| lower.contains(word));
    format!("{name}={}", if hide { MASK } else { value })
}

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self(SecretString::from(text))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretString::deserialize(deserializer).map(Self)
    }
}
