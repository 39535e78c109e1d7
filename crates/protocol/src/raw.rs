//! The client's own bytes of a request, by field: bounded in depth and number, each name once.

use crate::request::FieldError;
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::fmt;

const DEPTH_MAX: usize = 64;
const FIELDS_MAX: usize = 256;

/// A JSON object whose values are the client's own bytes; a repeated name is refused, since two readers could disagree
/// about which value counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawObject(pub(crate) Vec<(String, Bytes)>);

impl RawObject {
    /// Finds the fields; their values are parts of `body`, not copies.
    pub(crate) fn parse(body: &Bytes) -> Result<Self, FieldError> {
        if depth(body) > DEPTH_MAX {
            return Err(FieldError::new("body", format!("nested deeper than {DEPTH_MAX} levels; send a flatter one")));
        }
        let Borrowed(fields) = serde_json::from_slice(body)
            .map_err(|error| FieldError::new("body", format!("not a JSON object this API accepts: {error}")))?;
        let own = |(name, value): (String, &RawValue)| (name, body.slice_ref(value.get().as_bytes()));
        Ok(Self(fields.into_iter().map(own).collect()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Reads one field; absent and `null` are `None`.
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Result<Option<T>, FieldError> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        serde_json::from_slice::<Option<T>>(raw)
            .map_err(|error| FieldError::new(name, format!("{} ({error})", shortened(raw))))
    }
}

fn shortened(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(&raw[..raw.len().min(400)]);
    let mut short: String = text.chars().take(60).collect();
    if short.len() < raw.len() {
        short.push('…');
    }
    format!("cannot use `{short}`")
}

/// The fields of an object, values still in the text.
struct Borrowed<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Borrowed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Borrowed<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Borrowed<'de>, A::Error> {
                let mut fields: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format!("the field `{name}` is given twice")));
                    }
                    if fields.len() == FIELDS_MAX {
                        return Err(serde::de::Error::custom(format!("over {FIELDS_MAX} fields")));
                    }
                    fields.push((name, value));
                }
                Ok(Borrowed(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// How deep the lists and objects of a JSON text go, without reading it any further.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0usize, 0, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at += string_length(&json[at..]),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Bytes of a JSON string after its first quote, the last one included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2; // a backslash and what it escapes
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_of_brackets_outside_strings() {
        for (json, expected) in [
            ("1", 0),
            ("[{}]", 2),
            (r#"{"a":"[[[\"[{"}"#, 1),
            ("[[],[]]", 2),
            (r#"["\\",[]]"#, 2),
            ("[\"[", 1),
            ("[\"\\", 1),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }
}
