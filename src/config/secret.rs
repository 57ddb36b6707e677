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

    /// The URL with its password, and query values that name a secret, replaced by the mask; safe to print. Of one that is
    /// not [readable](Self::is_readable) the scheme alone.
    #[must_use]
    pub fn masked(&self) -> String {
        let text = self.expose();
        let Some(mut url) = self.read() else {
            return match self.scheme() {
                _ if text.is_empty() => String::new(),
                Some(scheme) if is_word(scheme) => format!("{scheme}://{MASK}"),
                _ => MASK.to_owned(),
            };
        };
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

    /// It means one thing only. A password that is not percent-encoded ends at its first `/`, `?` or `#`, and its rest
    /// would be taken for a host, a path or a name, and shown.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.is_empty() || self.read().is_some()
    }

    fn read(&self) -> Option<Url> {
        let (scheme, rest) = self.expose().split_once("://").filter(|(scheme, _)| is_word(scheme))?;
        // A file has no password, and may have any name.
        let behind_host = rest.find(['/', '?', '#']).and_then(|end| rest.get(end..)).unwrap_or_default();
        let is_plain = scheme == "sqlite" || !behind_host.contains(['@', '#']);
        Url::parse(self.expose()).ok().filter(|_| is_plain)
    }
}

/// What the scheme of a URL may be: letters, so that nothing else is shown as one.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// `serialize_with` for URLs of others that may carry a password, several between commas.
pub(super) fn shown<S: Serializer>(urls: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let shown: Vec<String> = urls.split(',').map(|url| shown_url(url.trim())).collect();
    serializer.serialize_str(&shown.join(","))
}

/// A URL as it may be shown: without a password, if there may be one in it.
pub(super) fn shown_url(url: &str) -> String {
    if url.contains('@') { SecretUrl::from(url).masked() } else { url.to_owned() }
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
