//! OpenAPI: what all roles add to their own paths, and the page to try it.

use axum::Router;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};
use utoipa_swagger_ui::SwaggerUi;

use super::problem::{FieldError, Problem};

/// `/openapi.json` and `/docs`.
pub(super) fn routes(title: &str, api: OpenApi) -> Router {
    SwaggerUi::new("/docs").url("/openapi.json", describe(title, api)).into()
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
