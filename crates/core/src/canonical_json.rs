//! Canonical JSON: what hashes and signatures are made of (specification, appendices, "Canonical
//! JSON").
//!
//! A tree that borrows its strings from the text it was parsed from, so that an event is read once
//! and written as often as its hashes need.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;

/// The largest integer that canonical JSON can hold; the smallest is its negative.
pub(crate) const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Which numbers may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Integers that a double holds exactly.
    Strict,
    /// Any. What the specification leaves open is done as the reference server does it, up to integers
    /// of more than 64 bits, which become floating-point numbers here.
    Any,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that canonical JSON lacks, as the reference server writes it.
    Lax(String),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// An object: sorted by key, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    /// Reads an object. Of a key that is there twice the last counts, as for other servers.
    ///
    /// # Errors
    /// If the text is no JSON object, or has a number that canonical JSON doesn't allow.
    pub(crate) fn parse(json: &'a str) -> Result<Self, serde_json::Error> {
        Self::parse_with(Numbers::Strict, json)
    }

    /// The same for events of room versions that don't insist on canonical JSON's numbers.
    ///
    /// # Errors
    /// If the text is no JSON object, or has a number that isn't allowed.
    pub(crate) fn parse_with(numbers: Numbers, json: &'a str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let value = ValueSeed(numbers).deserialize(&mut deserializer)?;
        deserializer.end()?;
        match value {
            Value::Object(object) => Ok(object),
            _ => Err(serde_json::Error::custom("expected an object")),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub(crate) fn insert(&mut self, key: &'a str, value: Value<'a>) {
        match self.find(key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (Cow::Borrowed(key), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// The canonical form of the object, without some of its keys.
    pub(crate) fn write_without(&self, left_out: &[&str]) -> String {
        write(&Without {
            object: self,
            left_out,
        })
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(probe, _)| (**probe).cmp(key))
    }

    /// Sorts entries and drops all but the last of each key.
    fn from_entries(mut entries: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        let sorted = entries
            .windows(2)
            .all(|pair| pair[0].0.cmp(&pair[1].0) == Ordering::Less);
        if !sorted {
            // Stable, so that of equal keys the last stays last, and first once reversed.
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            entries.reverse();
            entries.dedup_by(|later, kept| later.0 == kept.0);
            entries.reverse();
        }
        Self(entries)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
}

/// The canonical form of something made of this module's types.
pub(crate) fn write(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings and writing to memory cannot fail")
}

struct Without<'v, 'a> {
    object: &'v Object<'a>,
    left_out: &'v [&'v str],
}

impl Serialize for Without<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self
            .object
            .iter()
            .filter(|(key, _)| !self.left_out.contains(key))
        {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Lax(number) => RawValue::from_string(number.clone())
                .map_err(serde::ser::Error::custom)?
                .serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

/// Reads a value.
#[derive(Clone, Copy)]
struct ValueSeed(Numbers);

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ValueSeed {
    fn lax<E: Error>(self, number: impl FnOnce() -> String) -> Result<Value<'static>, E> {
        match self.0 {
            Numbers::Any => Ok(Value::Lax(number())),
            Numbers::Strict => Err(E::custom(
                "number that is no integer in the range of canonical JSON",
            )),
        }
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("canonical JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'de>, E> {
        if (-MAX_INTEGER..=MAX_INTEGER).contains(&value) {
            Ok(Value::Integer(value))
        } else {
            self.lax(|| value.to_string())
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.lax(|| value.to_string()),
        }
    }

    /// Fractions, exponents, `-0`, and integers of more than 64 bits.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
        self.lax(|| as_python_writes(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::text(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::with_capacity(8);
        while let Some(Key(key)) = map.next_key()? {
            entries.push((key, map.next_value_seed(self)?));
        }
        Ok(Value::Object(Object::from_entries(entries)))
    }
}

/// A floating-point number as Python's `repr` has it, and so as it is hashed in old rooms: the fewest
/// digits that read back as the same, with an exponent of two digits where it is below -4 or above 15.
fn as_python_writes(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

/// A key, borrowed if it has no escapes. (`Cow` itself always copies.)
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> Result<String, String> {
        Object::parse(json)
            .map(|object| write(&object))
            .map_err(|error| error.to_string())
    }

    /// The examples of the specification's appendix "Canonical JSON".
    #[test]
    fn the_specifications_examples_are_reproduced() {
        let cases = [
            ("{}", "{}"),
            (r#"{ "one": 1, "two": "Two" }"#, r#"{"one":1,"two":"Two"}"#),
            (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": null}"#, r#"{"a":null}"#),
        ];
        for (json, expected) in cases {
            assert_eq!(canonical(json).unwrap(), expected);
        }
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_counts() {
        let json = r#"{"b":1,"a":1,"b":2,"a":3,"b":4,"c":0}"#;
        assert_eq!(canonical(json).unwrap(), r#"{"a":3,"b":4,"c":0}"#);
        assert_eq!(canonical(r#"{"a":1,"a":2}"#).unwrap(), r#"{"a":2}"#);
    }

    #[test]
    fn keys_are_sorted_by_code_point_and_control_characters_escaped_shortly() {
        let json = "{\"\u{1F600}\":1,\"\u{FFFD}\":2,\"/\":\"\\/\\u0008\\u001f\\u007f\"}";
        let expected = "{\"/\":\"/\\b\\u001f\u{7f}\",\"\u{FFFD}\":2,\"\u{1F600}\":1}";
        assert_eq!(canonical(json).unwrap(), expected);
    }

    #[test]
    fn numbers_that_canonical_json_lacks_are_refused_wherever_they_stand() {
        for number in [
            "1.0",
            "1e3",
            "-0",
            "9007199254740992",
            "-9007199254740992",
            "1e400",
        ] {
            assert!(
                canonical(&format!(r#"{{"a":[{{"b":{number}}}]}}"#)).is_err(),
                "{number}"
            );
        }
        for number in ["0", "-1", "9007199254740991", "-9007199254740991"] {
            assert!(
                canonical(&format!(r#"{{"a":{number}}}"#)).is_ok(),
                "{number}"
            );
        }
    }

    /// The right sides are `json.dumps` of Python 3 over the left.
    #[test]
    fn in_old_rooms_other_numbers_are_written_as_python_writes_them() {
        let cases = [
            ("1.0", "1.0"),
            ("1.50", "1.5"),
            ("-0.0", "-0.0"),
            ("0.1", "0.1"),
            ("1e2", "100.0"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.25e-7", "1.25e-07"),
            ("1e15", "1000000000000000.0"),
            ("123456789012345678.0", "1.2345678901234568e+17"),
            ("1E16", "1e+16"),
            ("-2.5e300", "-2.5e+300"),
            ("9007199254740992", "9007199254740992"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("7", "7"),
        ];
        for (read, written) in cases {
            let json = format!(r#"{{"a":[{{"b":{read}}}]}}"#);
            let object = Object::parse_with(Numbers::Any, &json).unwrap();
            assert_eq!(write(&object), format!(r#"{{"a":[{{"b":{written}}}]}}"#));
        }
        assert!(Object::parse_with(Numbers::Any, r#"{"a":1e400}"#).is_err());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["[]", "1", "null", "", "{", r#"{"a":"\ud800"}"#, "{}x"] {
            assert!(canonical(json).is_err(), "{json}");
        }
    }
}
