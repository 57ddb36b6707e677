//! OpenAPI: what all roles add to their own paths, and the page to try it.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};

use super::problem::{FieldError, Problem};

const PAGE: &str = include_str!("docs/index.html");
const SCRIPT: &str = include_str!("docs/page.js");
/// Swagger UI, compressed: `docs/README.md` says where it comes from.
const BUNDLE: &[u8] = include_bytes!("docs/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("docs/swagger-ui.css.gz");

/// `/openapi.json`, and `/docs/`, where it can be tried.
pub(super) fn routes(title: &str, api: OpenApi) -> Router {
    let api = describe(title, api);
    let (html, css, script) = ("text/html; charset=utf-8", "text/css", "text/javascript");
    let plain = |kind: &'static str, text: &'static str| get(async move || ([(CONTENT_TYPE, kind)], text));
    let packed = |kind: &'static str, bytes: &'static [u8]| {
        get(async move || ([(CONTENT_TYPE, kind), (CONTENT_ENCODING, "gzip")], bytes))
    };
    Router::new()
        .route("/openapi.json", get(async move || Json(api)))
        .route("/docs", get(async || Redirect::permanent("docs/")))
        .route("/docs/", plain(html, PAGE))
        .route("/docs/page.js", plain(script, SCRIPT))
        .route("/docs/swagger-ui-bundle.js", packed(script, BUNDLE))
        .route("/docs/swagger-ui.css", packed(css, STYLE))
}

fn describe(title: &str, mut api: OpenApi) -> OpenApi {
    api.info = InfoBuilder::new()
        .title(title)
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Errors are problem documents (RFC 9457). Ids are strings, money is in units of its currency with up to two decimal places, time is epoch milliseconds."))
        .build();
    let components = api.components.get_or_insert_with(|| ComponentsBuilder::new().build());
    for (name, schema) in [(Problem::name(), Problem::schema()), (FieldError::name(), FieldError::schema())] {
        components.schemas.entry(name.into_owned()).or_insert(schema);
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-Api-Key"))));
    let none: [String; 0] = [];
    api.security =
        Some(vec![SecurityRequirement::new("bearer", none.clone()), SecurityRequirement::new("apiKey", none)]);
    api
}
