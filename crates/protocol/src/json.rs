//! A JSON value that borrows its text: for reading megabytes of prompt without holding them again.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

/// A JSON value; strings without escapes are borrowed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl Json<'_> {
    /// Writes it with object names in order and no white space; of a repeated name the last counts.
    pub(crate) fn write_canonical(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Null => out.write_all(b"null"),
            Self::Bool(value) => serde_json::to_writer(out, value).map_err(io::Error::from),
            Self::Number(value) => serde_json::to_writer(out, value).map_err(io::Error::from),
            Self::Text(text) => serde_json::to_writer(out, text).map_err(io::Error::from),
            Self::List(items) => {
                out.write_all(b"[")?;
                for item in items {
                    item.write_canonical(out)?;
                    out.write_all(b",")?;
                }
                out.write_all(b"]")
            }
            Self::Object(fields) => {
                let mut order: Vec<&(Cow<str>, Json)> = fields.iter().collect();
                order.sort_by(|a, b| a.0.cmp(&b.0));
                out.write_all(b"{")?;
                for (at, (name, value)) in order.iter().enumerate() {
                    if order.get(at + 1).is_some_and(|(next, _)| next == name) {
                        continue;
                    }
                    serde_json::to_writer(&mut *out, name)?;
                    out.write_all(b":")?;
                    value.write_canonical(out)?;
                    out.write_all(b",")?;
                }
                out.write_all(b"}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Json::Number(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Json::Number(value.into()))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
                Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number that is none"))
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Json::Text(Cow::Borrowed(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Json::Text(Cow::Owned(value.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Json::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// An object's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Text(name) => Ok(Self(name)),
            _ => Err(serde::de::Error::custom("a name is a string")),
        }
    }
}

impl From<&Value> for Json<'static> {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(value) => Self::Number(value.clone()),
            Value::String(text) => Self::Text(Cow::Owned(text.clone())),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(map) => {
                Self::Object(map.iter().map(|(name, value)| (Cow::Owned(name.clone()), Self::from(value))).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn canonical(text: &str) -> String {
        let value: Json = serde_json::from_str(text).expect("JSON");
        let mut out = Vec::new();
        value.write_canonical(&mut out).expect("memory takes it");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn order_and_spelling_do_not_count_and_values_do() {
        assert_eq!(canonical(r#"{"b": 1, "a": "\u0041é"}"#), canonical(r#"{"a":"Aé","b":1}"#));
        assert_eq!(canonical(r#"{"a":1,"a":2}"#), canonical(r#"{"a":2}"#));
        assert_ne!(canonical("[1]"), canonical("[1.0]"));
        assert!(serde_json::from_str::<Json>("1e999").is_err() && serde_json::from_str::<Json>("\"\\ud800\"").is_err());
    }

    #[test]
    fn text_without_escapes_is_borrowed() {
        let parsed: Json = serde_json::from_str(r#"["plain", "with \n"]"#).expect("JSON");
        let Json::List(items) = &parsed else { panic!("{parsed:?}") };
        assert!(matches!(items[0], Json::Text(Cow::Borrowed(_))) && matches!(items[1], Json::Text(Cow::Owned(_))));
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_writes(text in ".{0,40}", number in any::<i64>(), float in -1e9f64..1e9) {
            let value = json!({"t": text, "n": [number, float, null, true], text.clone(): {}});
            let written = value.to_string();
            let value: Value = serde_json::from_str(&written).expect("JSON"); // rounds the float as every reader does
            let mut direct = Vec::new();
            Json::from(&value).write_canonical(&mut direct).expect("memory takes it");
            prop_assert_eq!(canonical(&written).into_bytes(), direct);
        }
    }
}
