//! Bodies that people write: they are what their event's schema says before anything is sent or stored.

use crate::domain::event::Kind;
use crate::domain::schema;

/// Checks a body against the schema of its event.
///
/// # Errors
/// What is wrong with it, and where, in words.
pub fn check(kind: Kind, body: &[u8]) -> Result<(), String> {
    let value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let validator = jsonschema::draft7::new(&schema::of(kind)).map_err(|error| error.to_string())?;
    let faults: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| match error.instance_path().as_str() {
            "" => error.to_string(),
            place => format!("{place}: {error}"),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}
