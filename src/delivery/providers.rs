//! Where messages to users go, and calls to channels and to the warehouse. Their rows have the address of the time at
//! which they were recorded, as whoever recorded them knew it; what counts is the configuration of whoever makes the
//! call, as it does for the secret that signs it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::mask;
use super::notice::way;
use super::target::{Targets, channel_of};
use crate::config::{Channel, ChannelKind, Config, Notices};
use crate::db::delivery::Kind;
use crate::db::delivery::log::Elsewhere;
use crate::domain::notice::Way;

/// Providers, channels and the warehouse, as configured; by default none. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    sms: Option<Arc<str>>,
    email: Option<Arc<str>>,
    warehouse: Option<Arc<str>>,
    channels: Arc<BTreeMap<String, Channel>>,
}

/// `url` leads to `target`, a `host` or `host:port`; `own` for this process.
fn leads_to(url: &str, target: &str) -> bool {
    let name = Targets::name(url);
    let host = name.rsplit_once(':').map_or(&*name, |(host, _)| host);
    [&*name, host].iter().any(|name| name.eq_ignore_ascii_case(target))
}

impl Providers {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            warehouse: config.warehouse.url().map(Arc::from),
            channels: Arc::new(config.payment.channels.clone()),
            ..Self::new(&config.notices)
        }
    }

    /// Those of messages to users only.
    #[must_use]
    pub fn new(notices: &Notices) -> Self {
        let (sms, email) = (&notices.sms, &notices.email);
        Self {
            sms: (!sms.endpoint.is_empty()).then(|| sms.endpoint.as_str().into()),
            email: (!email.host.is_empty()).then(|| format!("smtp://{}:{}", email.host, email.port).into()),
            ..Self::default()
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

    /// This channel is configured, and is no stand-in.
    pub(super) fn is_real(&self, channel_id: &str) -> bool {
        self.channels.get(channel_id).is_some_and(|channel| channel.kind != ChannelKind::Sandbox)
    }

    /// Where all calls of this kind go that do not name a channel.
    fn of_kind(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Warehouse => self.warehouse.as_deref(),
            _ => self.url(way(kind)?),
        }
    }

    /// Where the channel that this body names takes such a call. The name is read as it is for the secret.
    fn of_channel(&self, kind: Kind, body: &str) -> Option<String> {
        let what = kind.channel_path()?;
        self.channels.get(&channel_of(body).ok()?)?.url(what)
    }

    /// Where a call with this body goes now that was recorded with `url`; that one where nothing is configured. A call
    /// to a channel that is not configured goes nowhere: there is no secret to sign it with.
    pub(super) fn now<'u>(&'u self, kind: Kind, url: &'u str, body: &str) -> Cow<'u, str> {
        match self.of_channel(kind, body) {
            Some(channel) => Cow::Owned(channel),
            None => Cow::Borrowed(self.of_kind(kind).unwrap_or(url)),
        }
    }

    /// Where a call with this body goes now that was recorded with `url`, as people may see it.
    #[must_use]
    pub fn shown(&self, kind: Kind, url: &str, body: &str) -> String {
        mask::url(kind, &self.now(kind, url, body))
    }

    /// Host and port of that.
    #[must_use]
    pub fn target(&self, kind: Kind, url: &str, body: &str) -> Arc<str> {
        Targets::name(&self.shown(kind, url, body))
    }

    /// The calls whose rows do not say where they go, and whether they go to `target`, a `host` or `host:port`; `own`
    /// for this process.
    #[must_use]
    pub fn going_to(&self, target: &str) -> Vec<Elsewhere> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            if let Some(url) = self.of_kind(kind) {
                all.push(Elsewhere { kind, channel: None, goes: leads_to(url, target) });
            }
            let Some(what) = kind.channel_path() else { continue };
            let known = self.channels.iter().filter_map(|(id, channel)| Some((id, channel.url(what)?)));
            all.extend(known.map(|(id, url)| {
                let goes = leads_to(&url, target);
                Elsewhere { kind, channel: Some(id.clone()), goes }
            }));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn told(going: &[Elsewhere]) -> Vec<(Kind, bool)> {
        going.iter().map(|one| (one.kind, one.goes)).collect()
    }

    #[test]
    fn messages_to_users_go_where_the_configuration_says() {
        let providers = Providers {
            sms: Some("https://sms.example/v1?key=s3".into()),
            email: Some("smtp://mail.example:25".into()),
            ..Providers::default()
        };
        let old = "smtp://old.example:25";
        assert_eq!(providers.shown(Kind::Email, old, ""), "smtp://mail.example:25");
        assert_eq!(&*providers.target(Kind::Sms, "https://old.example/v1", ""), "sms.example:443");
        assert_eq!(providers.shown(Kind::Sms, "https://old.example/v1", ""), "https://sms.example/v1?key=***");
        assert_eq!(providers.shown(Kind::Warehouse, "https://goods.example/n", ""), "https://goods.example/n");
        assert_eq!(Providers::default().shown(Kind::Email, old, ""), old);
        assert_eq!(told(&providers.going_to("Mail.example")), [(Kind::Sms, false), (Kind::Email, true)]);
        assert_eq!(told(&providers.going_to("sms.example:443")), [(Kind::Sms, true), (Kind::Email, false)]);
        assert!(Providers::default().going_to("mail.example").is_empty());
    }

    #[test]
    fn money_and_goods_go_where_the_configuration_says() {
        let sets = [
            r#"payment.channels.bank={kind="http",secret="b",endpoint="https://bank.example/v1/"}"#,
            "warehouse.endpoint=https://goods.example",
        ];
        let sets = sets.iter().map(|one| (*one).to_owned()).collect();
        let providers = Providers::of(&Config::load(&Sources { sets, ..Sources::default() }).unwrap());
        let now = |kind, url, body| providers.now(kind, url, body).into_owned();
        let (own, bank, sandbox) = ("/sandbox/channel/refund", r#"{"channelId":"bank"}"#, r#"{"channelId":"sandbox"}"#);
        assert_eq!(now(Kind::ChannelRefund, own, bank), "https://bank.example/v1/refund");
        assert_eq!(now(Kind::ChannelSubmit, "channel://bank/pay", bank), "https://bank.example/v1/pay");
        assert_eq!(now(Kind::RefundQuery, own, bank), "https://bank.example/v1/query");
        assert_eq!(now(Kind::ChannelRefund, "https://bank.example/v1/refund", sandbox), own);
        let gone = "channel://gone/refund";
        assert_eq!(now(Kind::ChannelRefund, gone, r#"{"channelId":"gone"}"#), gone);
        assert_eq!(now(Kind::Warehouse, "/sandbox/warehouse/orders", "{}"), "https://goods.example/orders");
        assert_eq!(now(Kind::Merchant, "https://shop.example/n", bank), "https://shop.example/n");
        assert!(providers.is_real("bank") && !providers.is_real("sandbox") && !providers.is_real("gone"));

        let going = |target: &str| {
            let there = providers.going_to(target).into_iter().filter(|one| one.goes);
            there.map(|one| (one.kind, one.channel.unwrap_or_default())).collect::<Vec<_>>()
        };
        assert_eq!(going("goods.example:443"), [(Kind::Warehouse, String::new())]);
        let asked = [Kind::ChannelSubmit, Kind::ChannelRefund, Kind::ChannelQuery, Kind::RefundQuery];
        assert_eq!(going("bank.example"), asked.map(|kind| (kind, "bank".to_owned())));
        assert_eq!(going("own"), asked.map(|kind| (kind, "sandbox".to_owned())));
    }
}
