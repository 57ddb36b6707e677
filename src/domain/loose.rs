//! JSON as other systems write it: what stands there is taken for what it means, and never for anything else.
//!
//! The tolerance belongs to the type of a field and is the same for every field of it: a text may stand as a number, a
//! number as a text, a time without its zone, a key without quotes, nothing as `null` or, where a field may be missing,
//! as an empty text.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

use super::time::EPOCH_MS;

/// Reads JSON whose keys may stand without quotes, as fastjson writes maps with numbers for keys: `{1001:2}`.
///
/// # Errors
/// That of the text as it stands, when it is no JSON for another reason.
pub fn parse(text: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(text).or_else(|error| serde_json::from_slice(&with_quotes(text)).map_err(|_| error))
}

/// The text with quotes around the keys that have none.
fn with_quotes(text: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 16);
    // Of each open bracket, whether it is one of an object.
    let mut open = Vec::new();
    let mut before_key = false;
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (byte, mut taken) = (*byte, 1);
        match byte {
            b'"' => taken = string_length(rest),
            b'{' | b'[' => open.push(byte == b'{'),
            b'}' | b']' => drop(open.pop()),
            _ if before_key && is_bare(byte) => {
                taken = 1 + after.iter().take_while(|byte| is_bare(**byte)).count();
                quoted.push(b'"');
            }
            _ => {}
        }
        let is_key = before_key && is_bare(byte);
        quoted.extend_from_slice(&rest[..taken]);
        if is_key {
            quoted.push(b'"');
        }
        before_key = match byte {
            b'{' | b',' => open.last() == Some(&true),
            byte if byte.is_ascii_whitespace() => before_key,
            _ => false,
        };
        rest = &rest[taken..];
    }
    quoted
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$')
}

/// The bytes of the string that `text` begins with, both quotes among them.
fn string_length(text: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |place| place + 2)
}

/// A value that is read loosely; times without a zone are those of `zone`.
pub struct Loose<'z> {
    value: Value,
    zone: &'z TimeZone,
}

impl<'z> Loose<'z> {
    /// Of this value.
    #[must_use]
    pub fn new(value: Value, zone: &'z TimeZone) -> Self {
        Self { value, zone }
    }
}

/// A date and time without a zone as the moment that it is in `zone`, as RFC 3339 writes it.
fn in_zone(text: &str, zone: &TimeZone) -> Option<String> {
    let (date, time) = text.split_at_checked(10)?;
    let is_local = time.starts_with([' ', 'T', 't']) && !time.contains(['Z', 'z', '+', '-', '[']);
    let local = (is_local && date.len() == 10).then(|| text.parse::<DateTime>().ok()).flatten()?;
    Some(local.to_zoned(zone.clone()).ok()?.timestamp().to_string())
}

/// A number that stands as a text, or with a point and nothing behind it.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_i64().or_else(|| {
            let digits = number.to_string();
            digits.split_once('.').filter(|(_, places)| places.bytes().all(|byte| byte == b'0'))?.0.parse().ok()
        }),
        _ => None,
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match whole(&self.value) {
                Some(number) => visitor.visit_i64(number),
                None => self.deserialize_any(visitor),
            }
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::String(text) => visitor.visit_string(text),
                Value::Number(number) => visitor.visit_string(number.to_string()),
                Value::Bool(is_so) => visitor.visit_string(is_so.to_string()),
                _ => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Loose<'_> {
    type Error = Error;

    whole_numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64);
    whole_numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    texts!(deserialize_str deserialize_string deserialize_char);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let zone = self.zone;
        match self.value {
            Value::Array(values) => visitor.visit_seq(Elements { values: values.into_iter(), zone }),
            Value::Object(fields) => visitor.visit_map(Fields { fields: fields.into_iter(), value: None, zone }),
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let is_so = match &self.value {
            Value::String(text) => text.trim().parse().ok(),
            Value::Number(number) => number.as_i64().filter(|number| [0, 1].contains(number)).map(|number| number == 1),
            _ => None,
        };
        match is_so {
            Some(is_so) => visitor.visit_bool(is_so),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::String(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        let moment = self.value.as_str().filter(|_| name == EPOCH_MS).and_then(|text| in_zone(text, self.zone));
        match moment {
            Some(moment) => visitor.visit_string(moment),
            None => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let value = match self.value {
            Value::Number(number) => Value::String(number.to_string()),
            value => value,
        };
        value.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

struct Elements<'z> {
    values: std::vec::IntoIter<Value>,
    zone: &'z TimeZone,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.values.next().map(|value| seed.deserialize(Loose::new(value, self.zone))).transpose()
    }
}

struct Fields<'z> {
    fields: serde_json::map::IntoIter,
    value: Option<Value>,
    zone: &'z TimeZone,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        // A field without a value is a field that is not there, as Jackson writes it.
        let Some((name, value)) = self.fields.find(|(_, value)| !value.is_null()) else { return Ok(None) };
        self.value = Some(value);
        let name: StringDeserializer<Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value without its key"))?;
        seed.deserialize(Loose::new(value, self.zone))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::domain::id::MerchantId;
    use crate::domain::money::Money;
    use crate::domain::time::epoch_ms;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Body {
        id: MerchantId,
        text: String,
        count: i64,
        money: Money,
        is_so: bool,
        #[serde(deserialize_with = "epoch_ms")]
        at: i64,
        #[serde(default)]
        other: Option<MerchantId>,
        #[serde(default)]
        lines: BTreeMap<String, i64>,
        #[serde(default)]
        list: Vec<String>,
    }

    fn read(value: Value) -> Result<Body, Error> {
        Body::deserialize(Loose::new(value, &TimeZone::get("Asia/Shanghai").unwrap()))
    }

    #[test]
    fn each_type_is_read_however_it_is_written() {
        let wanted = Body {
            id: MerchantId(7),
            text: "12".to_owned(),
            count: 3,
            money: Money::from_minor(9_900).unwrap(),
            is_so: true,
            at: 1_704_081_600_000,
            other: None,
            lines: BTreeMap::from([("1001".to_owned(), 2)]),
            list: vec!["1".to_owned()],
        };
        for body in [
            json!({"id": 7, "text": "12", "count": 3, "money": 99.0, "is_so": true, "at": 1_704_081_600_000_i64,
                "lines": {"1001": 2}, "list": ["1"]}),
            json!({"id": "7", "text": 12, "count": "3", "money": "99.00", "is_so": 1, "at": "2024-01-01 12:00:00",
                "other": "", "lines": {"1001": "2"}, "list": [1], "more": {"x": [null]}}),
            json!({"id": "7", "text": 12, "count": 3.0, "money": 99, "is_so": "true", "at": "2024-01-01T12:00:00.000",
                "other": null, "lines": {"1001": 2.0}, "list": [1]}),
            json!({"id": 7, "text": "12", "count": 3, "money": 99, "is_so": true, "at": "2024-01-01T04:00:00Z",
                "lines": {"1001": 2}, "list": ["1"]}),
        ] {
            assert_eq!(read(body.clone()).unwrap(), wanted, "{body}");
        }
        let sound = json!({"id": 7, "text": "12", "count": 3, "money": 99, "is_so": true, "at": 1});
        for (name, value) in [
            ("id", json!("x")),
            ("text", json!([])),
            ("count", json!("3.5")),
            ("count", json!(2.5)),
            ("money", json!(0.001)),
            ("is_so", json!(2)),
            ("at", json!("2024-13-01 12:00:00")),
            ("id", Value::Null),
        ] {
            let mut body = sound.clone();
            body[name] = value;
            assert!(read(body.clone()).is_err(), "{body}");
        }
    }

    #[test]
    fn keys_may_stand_without_quotes() {
        for (text, wanted) in [
            (r#"{1001:2}"#, json!({"1001": 2})),
            (
                r#"{"a":{1001:2, 1002 :3},"b":[{x_1:"y:{z,1:2"}, 5]}"#,
                json!({"a": {"1001": 2, "1002": 3},
                "b": [{"x_1": "y:{z,1:2"}, 5]}),
            ),
            (r#"{"a\"{b":1,c:[1,2],d:"\\"}"#, json!({"a\"{b": 1, "c": [1, 2], "d": "\\"})),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), wanted, "{text}");
        }
        for text in ["", "{", "{1001}", "{a:b}", "[1 2]", r#"{"a":"b}"#, "{:1}", "{a b:1}"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in r#"[\[\]{}:,"\\a1 .-]{0,40}"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                let _ = read(value);
            }
        }
    }
}
