//! The known keys, read from the example file: what may be set, of which kind it is, and which known key is nearest.

use figment::value::{Dict, Value};

/// Tables whose keys are chosen by the user: any name goes, with the shape of the entry named here.
const OPEN: [(&str, Option<&str>); 7] = [
    ("mq.topics", None),
    ("mq.zones", None),
    ("consumers", Some("default")),
    ("payment.channels", Some("sandbox")),
    ("backlog.groups", Some("default")),
    ("delivery.kinds", Some("merchant")),
    ("notices.templates", Some("ORDER_PAY_SUCCESS")),
];

/// What the example says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, also durations and sizes: taken as it is, never parsed as a number.
    Text,
    /// A list: TOML, or texts between commas.
    List,
    /// Numbers, booleans, tables: TOML.
    Other,
    /// Not in the example.
    Unknown,
}

/// The kind of `path`.
pub(super) fn kind_of(example: &Dict, path: &[String]) -> Kind {
    let mut table = example;
    let mut walked = String::new();
    for (depth, segment) in path.iter().enumerate() {
        let open = OPEN.iter().find(|(name, _)| *name == walked);
        let last = depth + 1 == path.len();
        let found = match open {
            Some((_, None)) if last => return Kind::Text,
            Some((_, Some(template))) => table.get(segment).or_else(|| table.get(*template)),
            _ => table.get(segment),
        };
        match found {
            None => return Kind::Unknown,
            Some(Value::Dict(_, inner)) if !last => table = inner,
            Some(_) if !last => return Kind::Unknown,
            Some(Value::String(..)) => return Kind::Text,
            Some(Value::Array(..)) => return Kind::List,
            Some(_) => return Kind::Other,
        }
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(segment);
    }
    Kind::Unknown
}

/// Every key of the example, dotted, tables included.
pub(super) fn known_keys(example: &Dict) -> Vec<String> {
    fn walk(table: &Dict, prefix: &str, out: &mut Vec<String>) {
        for (name, value) in table {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if let Value::Dict(_, inner) = value {
                walk(inner, &path, out);
            }
            out.push(path);
        }
    }
    let mut out = Vec::new();
    walk(example, "", &mut out);
    out
}

/// The known key most like `path`: `siblings` are the names that the table of the unknown key does have.
pub(super) fn nearest(example: &Dict, path: &[String], siblings: &[&str]) -> Option<String> {
    let (unknown, parents) = path.split_last()?;
    let unknown = unknown.to_lowercase();
    let parents = parents.join(".");
    let wanted = if parents.is_empty() { unknown.clone() } else { format!("{}.{unknown}", parents.to_lowercase()) };
    let score = |text: &str, like: &str| strsim::normalized_damerau_levenshtein(text, like);
    let here = siblings.iter().map(|name| {
        let full = if parents.is_empty() { (*name).to_owned() } else { format!("{parents}.{name}") };
        // Those of the same table come first, above all one of which this is the beginning (`sha` of `sha256`).
        let begins = unknown.len() > 2 && name.starts_with(&unknown);
        (if begins { 0.95 } else { score(&unknown, name) + 0.1 }, full)
    });
    let elsewhere = known_keys(example).into_iter().map(|key| {
        let name = key.rsplit('.').next().unwrap_or_default();
        // `mq_namesrv` for `mq.namesrv`, or the right name in the wrong table.
        let as_path = score(&wanted.replace('_', "."), &key.to_lowercase().replace('_', "."));
        let as_name = if name == unknown { 0.9 } else { 0.0 };
        (as_path.max(as_name), key)
    });
    here.chain(elsewhere)
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, key)| key)
}
