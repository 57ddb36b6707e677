//! Where messages to users go. Their rows have the address of the time at which they were recorded; what counts is the
//! configuration of whoever makes the call.

use std::sync::Arc;

use super::mask;
use super::notice::way;
use super::target::Targets;
use crate::config::Notices;
use crate::db::delivery::Kind;
use crate::domain::notice::Way;

/// The providers of messages to users, as configured; by default none. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    sms: Option<Arc<str>>,
    email: Option<Arc<str>>,
}

impl Providers {
    /// As configured.
    #[must_use]
    pub fn new(notices: &Notices) -> Self {
        let (sms, email) = (&notices.sms, &notices.email);
        Self {
            sms: (!sms.endpoint.is_empty()).then(|| sms.endpoint.as_str().into()),
            email: (!email.host.is_empty()).then(|| format!("smtp://{}:{}", email.host, email.port).into()),
        }
    }

    /// The address of the provider.
    #[must_use]
    pub fn url(&self, way: Way) -> Option<&str> {
        match way {
            Way::Sms => self.sms.as_deref(),
            Way::Email => self.email.as_deref(),
        }
    }

    /// Where a call goes now that was recorded with `url`; that one where no provider is configured.
    fn now<'u>(&'u self, kind: Kind, url: &'u str) -> &'u str {
        way(kind).and_then(|way| self.url(way)).unwrap_or(url)
    }

    /// Where a call goes now that was recorded with `url`, as people may see it.
    #[must_use]
    pub fn shown(&self, kind: Kind, url: &str) -> String {
        mask::url(kind, self.now(kind, url))
    }

    /// Host and port of that.
    #[must_use]
    pub fn target(&self, kind: Kind, url: &str) -> Arc<str> {
        Targets::name(&self.shown(kind, url))
    }

    /// The kinds whose rows do not say where they go, and whether they go to `target`, a `host` or `host:port`.
    #[must_use]
    pub fn going_to(&self, target: &str) -> Vec<(Kind, bool)> {
        let goes = |kind: Kind| {
            let name = Targets::name(self.url(way(kind)?)?);
            let host = name.rsplit_once(':').map_or(&*name, |(host, _)| host);
            Some((kind, [&*name, host].iter().any(|name| name.eq_ignore_ascii_case(target))))
        };
        Kind::ALL.into_iter().filter_map(goes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_users_go_where_the_configuration_says() {
        let providers = Providers {
            sms: Some("https://sms.example/v1?key=s3".into()),
            email: Some("smtp://mail.example:25".into()),
        };
        let old = "smtp://old.example:25";
        assert_eq!(providers.shown(Kind::Email, old), "smtp://mail.example:25");
        assert_eq!(&*providers.target(Kind::Sms, "https://old.example/v1"), "sms.example:443");
        assert_eq!(providers.shown(Kind::Sms, "https://old.example/v1"), "https://sms.example/v1?key=***");
        assert_eq!(providers.shown(Kind::Warehouse, "https://goods.example/n"), "https://goods.example/n");
        assert_eq!(Providers::default().shown(Kind::Email, old), old);
        assert_eq!(providers.going_to("Mail.example"), [(Kind::Sms, false), (Kind::Email, true)]);
        assert_eq!(providers.going_to("sms.example:443"), [(Kind::Sms, true), (Kind::Email, false)]);
        assert!(Providers::default().going_to("mail.example").is_empty());
    }
}
