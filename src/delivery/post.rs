//! One signed HTTP call at once, for what has no database to record it in.

use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::sign::{SIGNATURE_HEADER, TIMESTAMP_HEADER, sign};
use crate::clock::Clock;

/// Posts JSON. A cheap clone.
#[derive(Clone, Debug)]
pub struct Poster {
    client: Client,
    secret: SecretString,
    clock: Clock,
}

impl Poster {
    /// Signs with `secret`, unless it is empty; a call may take `timeout`.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub fn new(timeout: Duration, secret: SecretString, clock: Clock) -> Result<Self, reqwest::Error> {
        let agent = concat!("ruyi/", env!("CARGO_PKG_VERSION"));
        let client = Client::builder().timeout(timeout).redirect(Policy::none()).user_agent(agent).build()?;
        Ok(Self { client, secret, clock })
    }

    /// Posts `body` to `url`.
    ///
    /// # Errors
    /// Why it was not taken, without the URL, which may carry a token.
    pub async fn post<T: Serialize>(&self, url: &str, body: &T) -> Result<(), String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let mut request = self.client.post(url).header("content-type", "application/json");
        if !self.secret.expose_secret().is_empty() {
            let timestamp_s = self.clock.now_ms() / 1_000;
            let signature = sign(&self.secret, timestamp_s, &body);
            request = request.header(TIMESTAMP_HEADER, timestamp_s).header(SIGNATURE_HEADER, signature);
        }
        let answer = request.body(body).send().await.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("HTTP {}", answer.status())) }
    }
}
