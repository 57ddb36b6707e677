//! Changing JSON without touching what nobody changed: order of fields and the way numbers are written stay.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// The fields of an object in their order, each as it is written.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// `text` with the value at `path` (`lines.0.quantity`) set to `value`: JSON where it can be, else text. A field that is
/// not there is added.
///
/// # Errors
/// `text` is no JSON, or has no such place.
pub fn set(text: &str, path: &str, value: &str) -> Result<String, String> {
    let value = match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => json.get().to_owned(),
        Err(_) => serde_json::to_string(value).map_err(|error| error.to_string())?,
    };
    let names: Vec<&str> = path.split('.').collect();
    set_at(text, &names, &value).map_err(|why| format!("{path}: {why}"))
}

fn set_at(text: &str, names: &[&str], value: &str) -> Result<String, String> {
    let Some((name, rest)) = names.split_first() else { return Ok(value.to_owned()) };
    let changed = |before: &str| {
        let text = set_at(before, rest, value)?;
        RawValue::from_string(text).map_err(|error| error.to_string())
    };
    if let Ok(mut fields) = serde_json::from_str::<Fields>(text) {
        match fields.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, at)) => *at = changed(at.get())?,
            None if rest.is_empty() => fields.0.push(((*name).to_owned(), changed("null")?)),
            None => return Err(format!("there is no field {name}")),
        }
        return serde_json::to_string(&fields).map_err(|error| error.to_string());
    }
    let Ok(mut list) = serde_json::from_str::<Vec<Box<RawValue>>>(text) else {
        return Err(format!("{name} is asked of what is neither an object nor a list"));
    };
    let index = name.parse::<usize>().ok();
    let at = index.and_then(|index| list.get_mut(index)).ok_or_else(|| format!("the list has no {name}"))?;
    *at = changed(at.get())?;
    serde_json::to_string(&list).map_err(|error| error.to_string())
}

/// One line: without the blanks between its parts. `text` must be JSON.
pub fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quoted = Quoted::default();
    for c in text.chars() {
        if quoted.is_inside(c) || !c.is_ascii_whitespace() {
            out.push(c);
        }
    }
    out
}

/// Lines for people. `text` must be JSON.
pub fn pretty(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut quoted, mut depth) = (Quoted::default(), 0_usize);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    let text = compact(text);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if quoted.is_inside(c) {
            out.push(c);
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                if rest.peek().is_some_and(|next| !matches!(next, '}' | ']')) {
                    depth += 1;
                    line(&mut out, depth);
                } else {
                    out.extend(rest.next());
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push(c),
        }
    }
    out.push('\n');
    out
}

/// Whether a character belongs to a string, its quotes included.
#[derive(Default)]
struct Quoted {
    inside: bool,
    escaped: bool,
}

impl Quoted {
    fn is_inside(&mut self, c: char) -> bool {
        if !self.inside {
            self.inside = c == '"';
            return self.inside;
        }
        let escaped = std::mem::take(&mut self.escaped);
        self.escaped = c == '\\' && !escaped;
        if c == '"' && !escaped {
            self.inside = false;
        }
        true
    }
}

/// What changed, field by field where both are objects.
pub fn diff(before: &str, after: &str) -> Vec<String> {
    if before == after {
        return vec![];
    }
    let parse = |text: &str| serde_json::from_str::<Fields>(text).ok();
    let (Some(old), Some(new)) = (parse(before), parse(after)) else {
        return vec![format!("- {before}"), format!("+ {after}")];
    };
    let find = |fields: &Fields, name: &str| {
        fields.0.iter().find(|(known, _)| known == name).map(|(_, value)| compact(value.get()))
    };
    let mut lines = Vec::new();
    for (name, value) in &old.0 {
        let (value, now) = (compact(value.get()), find(&new, name));
        if now.as_ref() != Some(&value) {
            lines.push(format!("- {name}: {value}"));
            lines.extend(now.map(|now| format!("+ {name}: {now}")));
        }
    }
    for (name, value) in new.0.iter().filter(|(name, _)| find(&old, name).is_none()) {
        lines.push(format!("+ {name}: {}", compact(value.get())));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"z":"a\"b, c","amount":99.90,"id":9007199254740993123,"lines":[{"sku":"A","quantity":1},{}],"e":[],"o":{}}"#;

    #[test]
    fn only_what_was_named_is_changed() {
        let after = set(BODY, "lines.0.quantity", "3").unwrap();
        assert_eq!(after, BODY.replace(r#""quantity":1"#, r#""quantity":3"#));
        assert_eq!(diff(BODY, &after).len(), 2);
        assert_eq!(set(BODY, "amount", "59.80").unwrap(), BODY.replace("99.90", "59.80"));
        let added = set(BODY, "note", "hi there").unwrap();
        assert_eq!(diff(BODY, &added), [r#"+ note: "hi there""#]);
        assert_eq!(set(r#"{"a":{"b":1}}"#, "a", r#"{"c": 2}"#).unwrap(), r#"{"a":{"c": 2}}"#);
        for wrong in ["nothing.b", "lines.7", "z.x", "lines.sku"] {
            assert!(set(BODY, wrong, "1").is_err(), "{wrong}");
        }
        assert!(set("no JSON", "a", "1").is_err());
    }

    #[test]
    fn people_see_lines_and_get_back_what_they_did_not_change() {
        let shown = pretty(BODY);
        assert!(shown.contains("\n  \"amount\": 99.90,\n"), "{shown}");
        assert!(shown.contains("\"e\": [],\n  \"o\": {}\n}"), "{shown}");
        assert_eq!(compact(&shown), BODY);
        assert!(diff(BODY, &compact(&shown)).is_empty());
        assert_eq!(diff("text", "other").len(), 2);
        // 99.9 is the same number and another text: told all the same.
        assert_eq!(diff(BODY, &BODY.replace("99.90", "99.9")).len(), 2);
    }
}
