//! OpenAPI: what all roles add to their own paths, and the page to try it.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::response::Redirect;
use axum::routing::get;
use axum::{Router, body::Bytes};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, Content, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::problem::{FieldError, MEDIA_TYPE, Problem};

const PAGE: &str = include_str!("docs/index.html");
const SCRIPT: &str = include_str!("docs/page.js");
/// Swagger UI, compressed: `docs/README.md` says where it comes from.
const BUNDLE: &[u8] = include_bytes!("docs/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("docs/swagger-ui.css.gz");

/// `/openapi.json`, and `/docs/`, where it can be tried.
pub(super) fn routes(title: &str, api: OpenApi) -> Router {
    // Written once: whoever asks for it again and again without reading is to cost nothing.
    let api = Bytes::from(serde_json::to_vec(&describe(title, api)).unwrap_or_default());
    let (html, css, script) = ("text/html; charset=utf-8", "text/css", "text/javascript");
    let plain = |kind: &'static str, text: &'static str| get(async move || ([(CONTENT_TYPE, kind)], text));
    let packed = |kind: &'static str, bytes: &'static [u8]| {
        get(async move || ([(CONTENT_TYPE, kind), (CONTENT_ENCODING, "gzip")], bytes))
    };
    Router::new()
        .route("/openapi.json", get(async move || ([(CONTENT_TYPE, "application/json")], api)))
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
    let header = |name| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(name)));
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("apiKey", header("X-Api-Key"));
    components.add_security_scheme("signature", header("X-Ruyi-Signature"));
    api.paths.paths.values_mut().flat_map(operations).for_each(complete);
    api
}

/// The operations of a path.
pub(super) fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch].into_iter().flatten()
}

/// Adds the answers that layers give, whatever the handler does, and the media type of all that are problems.
fn complete(operation: &mut Operation) {
    let security = operation.security.get_or_insert_with(|| {
        let none: [String; 0] = [];
        vec![SecurityRequirement::new("signature", none)]
    });
    let is_signed = *security == [SecurityRequirement::new("signature", Vec::<String>::new())];
    let has_body = operation.request_body.is_some();

    let of_layers = [
        ("400", "The request cannot be read.", true),
        ("401", "No key, or one that is not known; of a callback: no signature that counts.", true),
        ("403", "The key may not do this.", !is_signed),
        ("408", "The body does not come within half of http.request_timeout; nothing was done.", has_body),
        ("413", "The body is larger than http.body_limit.", true),
        ("415", "The body is not JSON.", has_body && !is_signed),
        ("422", "The values are wrong.", has_body),
        ("429", "More requests per second than http.rate_limit.", !is_signed),
        ("500", "Something went wrong here.", true),
        ("503", "Not now: too many requests or connections, or the database is away.", true),
        ("504", "Longer than http.request_timeout; it may still have happened.", true),
    ];
    let responses = &mut operation.responses.responses;
    for (status, description, _) in of_layers.into_iter().filter(|(_, _, applies)| *applies) {
        let known = responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem()));
        if let RefOr::T(response) = known
            && response.description.is_empty()
        {
            description.clone_into(&mut response.description);
        }
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if response.content.values().any(is_problem) {
            response.content = problem().content;
        }
        if matches!(status.as_str(), "429" | "503" | "504") {
            let seconds =
                HeaderBuilder::new().schema(Some(i64::schema())).description(Some("Seconds to wait.")).build();
            response.headers.insert("Retry-After".to_owned(), RefOr::T(seconds));
        }
    }
}

fn problem() -> utoipa::openapi::Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new().content(MEDIA_TYPE, content).build()
}

fn is_problem(content: &RefOr<Content>) -> bool {
    let RefOr::T(content) = content else { return false };
    matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == Ref::from_schema_name(Problem::name()).ref_location)
}
