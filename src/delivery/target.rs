//! Where a call goes, what it carries, and which secret signs it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::guard::{self, Guard, Resolve};
use super::notice::{Post, Senders};
use super::providers::Providers;
use super::sign::{self, SignatureError};
use super::webhook;
use crate::config::Config;
use crate::db::delivery::{Delivery, Kind};

/// The channel whose secret signs a body that names no channel.
const DEFAULT_CHANNEL: &str = "sandbox";

/// How far the time in an answer may be from ours, where nothing else is configured.
const TOLERANCE_MS: i64 = 300_000;

/// Name of the target that is this process.
pub(super) const OWN: &str = "own";

/// `delivery.body` of [`Kind::SandboxPayment`]: what the sandbox channel sends, and how. Other kinds send their body
/// as it is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxCall {
    /// Channel that it plays, and whose secret signs.
    pub channel_id: String,
    /// Sign wrongly.
    pub bad_signature: bool,
    /// The body.
    pub send: Value,
}

/// Where a call goes, as far as it fails and waits by itself: a target (host and port) may have many, as a provider that
/// takes the calls of many merchants.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// Its target: see [`Targets::name`].
    pub target: Arc<str>,
    /// The same for the same endpoint in every process, at any time: calls wait for it by this number.
    pub number: i64,
}

impl Endpoint {
    /// The endpoint of a call: its URL without a query, and of calls to merchants the merchant, since two may share a
    /// URL. This process itself is one.
    pub fn of(call: &Delivery) -> Self {
        let target = Targets::name(&call.url);
        let plain = if *target == *OWN { OWN } else { call.url.split(['?', '#']).next().unwrap_or_default() };
        let merchant = match call.kind {
            Kind::Merchant => webhook::merchant_of(&call.body).map_or(0, |merchant| merchant.0),
            _ => 0,
        };
        let digest = Sha256::digest(format!("{plain} {merchant}"));
        let number = digest.iter().take(8).fold(0_i64, |number, byte| (number << 8) | i64::from(*byte));
        Self { target, number }
    }

    /// It is this process.
    pub fn is_own(&self) -> bool {
        *self.target == *OWN
    }
}

/// Knows the address of this process and the secrets. A cheap clone.
#[derive(Clone)]
pub struct Targets(Arc<Inner>);

struct Inner {
    own: OnceLock<String>,
    channels: BTreeMap<String, Keys>,
    /// How far the time in a channel's answer may be from ours.
    tolerance_ms: i64,
    warehouse: SecretString,
    alerts: SecretString,
    guard: Guard,
    senders: Arc<Senders>,
    /// Where calls go, whatever was recorded.
    providers: Providers,
}

impl fmt::Debug for Targets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Targets").field("own", &self.0.own).finish_non_exhaustive()
    }
}

/// The secrets of a channel: the first one signs, its answers may be signed with any.
type Keys = Vec<SecretString>;

/// A call, ready to be made.
pub(super) struct Prepared {
    pub url: Url,
    pub own: bool,
    /// Its address came from a user: only the guarded client may call it.
    pub guarded: bool,
    pub body: String,
    /// What people may see of the body, where that is not for [`super::mask`] to say.
    pub shown: Option<String>,
    /// A user's number, which no answer may show.
    pub hidden: Option<String>,
    /// Empty: it is not signed.
    pub secret: SecretString,
    pub spoil_signature: bool,
}

impl Prepared {
    fn new(url: Url, body: String, secret: SecretString) -> Self {
        Self { url, own: false, guarded: false, body, shown: None, hidden: None, secret, spoil_signature: false }
    }

    /// A text message.
    ///
    /// # Errors
    /// What is wrong with the address of the provider.
    pub fn of(post: Post) -> Result<Self, String> {
        let url = Url::parse(&post.url).map_err(|error| format!("notices.sms.endpoint: {error}"))?;
        let (shown, hidden) = (Some(post.shown), Some(post.to));
        Ok(Self { shown, hidden, ..Self::new(url, post.body, post.secret) })
    }
}

/// What is sent, and what signs it.
struct Sealed {
    body: String,
    secret: SecretString,
    spoil_signature: bool,
}

/// Why a call cannot be made.
pub(super) enum Unprepared {
    /// Not yet: this process does not know its own address.
    Later(&'static str),
    /// Never.
    Never(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamesChannel {
    #[serde(default)]
    channel_id: Option<String>,
}

#[derive(Deserialize)]
struct NamesAttempt {
    #[serde(default)]
    attempt: Option<i64>,
}

impl Targets {
    /// `channels`: secret by channel id; the one named `sandbox` also signs bodies without a `channelId`. Calls go
    /// where they were recorded to go.
    #[must_use]
    pub fn new(channels: BTreeMap<String, SecretString>, warehouse: SecretString) -> Self {
        Self::with(Inner {
            own: OnceLock::new(),
            channels: channels.into_iter().map(|(id, secret)| (id, vec![secret])).collect(),
            tolerance_ms: TOLERANCE_MS,
            warehouse,
            alerts: SecretString::default(),
            guard: Guard::new(false, guard::system()),
            senders: Arc::default(),
            providers: Providers::default(),
        })
    }

    fn with(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// With other rules for the addresses that users give: anywhere, or names as `resolve` knows them.
    #[must_use]
    pub fn guarded(self, allow_private: bool, resolve: Resolve) -> Self {
        let Inner { channels, tolerance_ms, warehouse, alerts, senders, providers, .. } = &*self.0;
        Self::with(Inner {
            own: OnceLock::new(),
            channels: channels.clone(),
            tolerance_ms: *tolerance_ms,
            warehouse: warehouse.clone(),
            alerts: alerts.clone(),
            guard: Guard::new(allow_private, resolve),
            senders: Arc::clone(senders),
            providers: providers.clone(),
        })
    }

    /// By whom users are told.
    pub(super) fn senders(&self) -> &Senders {
        &self.0.senders
    }

    /// Host and port that a call goes to now.
    pub(super) fn of(&self, call: &Delivery) -> Arc<str> {
        self.0.providers.target(call.kind, &call.url, &call.body)
    }

    /// The call as this process makes it: its URL is where it goes now. Whoever recorded it may not have known the
    /// channel whose secret signs it here, or known it somewhere else.
    pub(super) fn aimed(&self, call: Delivery) -> Delivery {
        let url = self.0.providers.now(call.kind, &call.url, &call.body).into_owned();
        Delivery { url, ..call }
    }

    /// Judges an address that a user gives, as far as it can be judged without asking for its name.
    ///
    /// # Errors
    /// Why it will not be called.
    pub fn check_given(&self, address: &str) -> Result<(), String> {
        let url = web_url(address)?;
        self.0.guard.check(&url)
    }

    /// Where calls to users' addresses may go.
    pub(super) fn guard(&self) -> &Guard {
        &self.0.guard
    }

    /// With the configured secrets.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let channels = &config.payment.channels;
        let channels =
            channels.iter().map(|(id, channel)| (id.clone(), channel.secrets().cloned().collect())).collect();
        let guard = Guard::new(config.delivery.allow_private, guard::system());
        Self::with(Inner {
            own: OnceLock::new(),
            channels,
            tolerance_ms: config.payment.callback_tolerance.ms(),
            warehouse: config.warehouse.secret.clone(),
            alerts: config.alerts.secret.clone(),
            guard,
            senders: Arc::new(Senders::new(&config.notices)),
            providers: Providers::of(config),
        })
    }

    /// Where this process listens, like `http://127.0.0.1:8080`: calls whose URL is a path go there. Only the first
    /// call counts; until then such calls fail and are tried again.
    pub fn set_own(&self, base: &str) {
        if self.0.own.set(base.trim_end_matches('/').to_owned()).is_err() {
            tracing::debug!(base, "the address of this process is known already");
        }
    }

    /// The secret that a channel signs with.
    #[must_use]
    pub fn channel_secret(&self, channel_id: &str) -> Option<&SecretString> {
        self.0.channels.get(channel_id)?.first()
    }

    /// Checks that a channel has signed its answer.
    pub(super) fn check_answer(
        &self,
        channel_id: &str,
        headers: &HeaderMap,
        body: &[u8],
        now_ms: i64,
    ) -> Result<(), SignatureError> {
        let keys = self.0.channels.get(channel_id).map(Vec::as_slice).unwrap_or_default();
        sign::verify_any(keys.iter(), headers, body, now_ms, self.0.tolerance_ms)
    }

    /// The secret that the warehouse signs with.
    #[must_use]
    pub fn warehouse_secret(&self) -> &SecretString {
        &self.0.warehouse
    }

    /// Host and port of a call, or [`OWN`]: calls to one of them share its bound.
    #[must_use]
    pub fn name(url: &str) -> Arc<str> {
        if url.starts_with('/') {
            return OWN.into();
        }
        match Url::parse(url) {
            Ok(url) => {
                let port = url.port_or_known_default().unwrap_or_default();
                format!("{}:{port}", url.host_str().unwrap_or_default()).into()
            }
            Err(_) => url.into(),
        }
    }

    pub(super) fn prepare(&self, call: &Delivery) -> Result<Prepared, Unprepared> {
        // Without a secret nothing is called, wherever it would go.
        let Sealed { body, secret, spoil_signature } = self.sealed(call)?;
        let own = call.url.starts_with('/') && !call.kind.is_guarded();
        let address = if own {
            let base = self.0.own.get().ok_or(Unprepared::Later("this process does not listen yet"))?;
            format!("{base}{}", call.url)
        } else {
            call.url.clone()
        };
        let url = web_url(&address).map_err(Unprepared::Never)?;
        let guarded = call.kind.is_guarded();
        if guarded {
            self.0.guard.check(&url).map_err(Unprepared::Never)?;
        }
        Ok(Prepared { own, guarded, spoil_signature, ..Prepared::new(url, body, secret) })
    }

    /// What a call sends, and what signs it.
    fn sealed(&self, call: &Delivery) -> Result<Sealed, Unprepared> {
        let unreadable = |error: serde_json::Error| Unprepared::Never(format!("the body cannot be read: {error}"));
        let whole = |secret: SecretString| Sealed { body: call.body.clone(), secret, spoil_signature: false };
        match call.kind {
            Kind::Alert => Ok(whole(self.0.alerts.clone())),
            // Signed by the merchant's own secrets.
            Kind::Merchant => Ok(whole(SecretString::default())),
            Kind::Warehouse | Kind::SandboxFulfilment => Ok(whole(self.0.warehouse.clone())),
            // These are made by `super::notice`.
            Kind::Sms | Kind::Email => Err(Unprepared::Never("no plain call".to_owned())),
            Kind::ChannelSubmit | Kind::ChannelRefund | Kind::ChannelQuery | Kind::RefundQuery => {
                Ok(whole(self.secret_of(&channel_of(&call.body).map_err(unreadable)?)?))
            }
            Kind::SandboxPayment => {
                let wrapped: SandboxCall = serde_json::from_str(&call.body).map_err(unreadable)?;
                let SandboxCall { channel_id, bad_signature, send } = wrapped;
                // It may have been one when the stand-in took the payment. Now its word would be that of a real one.
                if self.0.providers.is_real(&channel_id) {
                    return Err(Unprepared::Never(format!("the channel {channel_id:?} is no sandbox")));
                }
                let secret = self.secret_of(&channel_id)?;
                Ok(Sealed { body: send.to_string(), secret, spoil_signature: bad_signature })
            }
        }
    }

    fn secret_of(&self, channel_id: &str) -> Result<SecretString, Unprepared> {
        let secret = self.channel_secret(channel_id).cloned();
        secret.ok_or_else(|| Unprepared::Never(format!("there is no channel {channel_id:?} to sign for")))
    }
}

/// The channel that a body is for.
///
/// # Errors
/// It is no JSON object.
pub fn channel_of(body: &str) -> Result<String, serde_json::Error> {
    let named: NamesChannel = serde_json::from_str(body)?;
    Ok(named.channel_id.unwrap_or_else(|| DEFAULT_CHANNEL.to_owned()))
}

/// What a channel tells a repeated submission by: its reference, and from the second attempt of a payment on the number
/// of the attempt as well. So what is sent under one key never changes.
pub(super) fn submission_key(reference: &str, body: &str) -> String {
    let named = serde_json::from_str::<NamesAttempt>(body).ok().and_then(|named| named.attempt);
    named.map_or_else(|| reference.to_owned(), |attempt| format!("{reference}-{attempt}"))
}

fn web_url(address: &str) -> Result<Url, String> {
    let url = Url::parse(address).map_err(|error| format!("cannot call {address:?}: {error}"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(format!("cannot call {address:?}: neither http nor https")),
    }
}
