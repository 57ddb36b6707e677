//! What every HTTP role shares: server, limits, API keys, problem documents, probes, metrics and OpenAPI.

mod accept;
mod auth;
mod docs;
mod json;
mod limits;
mod observe;
mod problem;
mod rate;
mod server;
mod timed;

pub use auth::{Auth, AuthError, Caller, Require, guarded, of_another_merchant, require, require_any};
pub use json::{ApiJson, parse as parse_json, read_body};
pub use limits::Limits;
pub use problem::{FieldError, Problem};
pub use server::{App, Bound, ListenError, ReadyCheck, Scale, bind, bind_probes};
