//! Canonical JSON of foreign request bodies.
//!
//! Events have their own canonical JSON, with strict numbers. The body of a request is signed as
//! it is, and may carry events of old rooms with fractions and large numbers in them. Were they
//! refused here, one such event would end everything its server has to say. So numbers are copied
//! as they are written, which is how the reference server signs them.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The body is not JSON, or has a string that is not Unicode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {0}")]
pub(crate) struct NotJson(String);

/// An array or object that is not closed yet.
enum Open {
    Array(Vec<u8>),
    Object {
        /// By decoded key. Of equal keys the last counts.
        members: BTreeMap<String, Vec<u8>>,
        key: Option<String>,
    },
}

/// Sorts keys, drops white space and writes strings the one way; without recursion, so that depth
/// costs memory and not stack.
pub(crate) fn canonicalize(json: &[u8]) -> Result<Vec<u8>, NotJson> {
    // Everything below relies on this check.
    let valid: &RawValue =
        serde_json::from_slice(json).map_err(|error| NotJson(error.to_string()))?;
    let text = valid.get();
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let value = match bytes[at] {
            b' ' | b'\t' | b'\n' | b'\r' | b':' | b',' => {
                at += 1;
                continue;
            }
            b'[' => {
                open.push(Open::Array(Vec::new()));
                at += 1;
                continue;
            }
            b'{' => {
                open.push(Open::Object {
                    members: BTreeMap::new(),
                    key: None,
                });
                at += 1;
                continue;
            }
            b']' | b'}' => {
                at += 1;
                close(open.pop())
            }
            b'"' => {
                let end = end_of_string(bytes, at);
                let string = &text[at..end];
                at = end;
                if let Some(Open::Object {
                    key: key @ None, ..
                }) = open.last_mut()
                {
                    *key = Some(decode(string)?);
                    continue;
                }
                encode(string)?
            }
            _ => {
                let end = end_of_word(bytes, at);
                let word = bytes[at..end].to_vec();
                at = end;
                word
            }
        };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::Array(written)) => {
                if !written.is_empty() {
                    written.push(b',');
                }
                written.extend(value);
            }
            Some(Open::Object { members, key }) => {
                members.insert(key.take().unwrap_or_default(), value);
            }
        }
    }
    Err(NotJson("it ends early".to_owned()))
}

fn close(open: Option<Open>) -> Vec<u8> {
    let mut written = Vec::new();
    match open {
        Some(Open::Array(elements)) => {
            written.push(b'[');
            written.extend(elements);
            written.push(b']');
        }
        Some(Open::Object { members, .. }) => {
            written.push(b'{');
            for (key, value) in members {
                if written.len() > 1 {
                    written.push(b',');
                }
                written.extend(quote(&key));
                written.push(b':');
                written.extend(value);
            }
            written.push(b'}');
        }
        None => {}
    }
    written
}

/// Just after the closing quote of the string that opens at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn end_of_word(bytes: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
    let length = bytes[start..].iter().position(ends);
    length.map_or(bytes.len(), |length| start + length)
}

fn decode(string: &str) -> Result<String, NotJson> {
    if !string.contains('\\') {
        return Ok(string[1..string.len() - 1].to_owned());
    }
    serde_json::from_str(string).map_err(|error| NotJson(error.to_string()))
}

fn encode(string: &str) -> Result<Vec<u8>, NotJson> {
    // Without escapes there is only one way to write it.
    if !string.contains('\\') {
        return Ok(string.as_bytes().to_vec());
    }
    Ok(quote(&decode(string)?))
}

/// A string as canonical JSON writes it.
pub(crate) fn quote(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("any string can be written as JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn canonical(json: &str) -> Result<String, NotJson> {
        canonicalize(json.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn json_gets_its_canonical_form() {
        let cases = [
            ("{}", "{}"),
            (" { } ", "{}"),
            ("[ ]", "[]"),
            (
                r#"{"b": 1, "a" :[ 1 , "x",{"d":null,"c":true}]}"#,
                r#"{"a":[1,"x",{"c":true,"d":null}],"b":1}"#,
            ),
            (r#"{"a":[[],[]],"b":{}}"#, r#"{"a":[[],[]],"b":{}}"#),
            (
                r#"["\u65e5","\/","\u0008\u001F\n"]"#,
                "[\"日\",\"/\",\"\\b\\u001f\\n\"]",
            ),
            (r#"{"日":1,"本":2}"#, r#"{"日":1,"本":2}"#),
            (r#"{"本":2,"日":1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"\u0061":1,"A":2}"#, r#"{"A":2,"a":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"":{"":""}}"#, r#"{"":{"":""}}"#),
            (
                "[1.50, 1e3, -0, 123456789012345678901234567890]",
                "[1.50,1e3,-0,123456789012345678901234567890]",
            ),
            (" 7 ", "7"),
            (r#""\"{""#, r#""\"{""#),
        ];
        for (json, expected) in cases {
            assert_eq!(canonical(json).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for json in [
            "",
            "{",
            "[1,]",
            r#"{"a"}"#,
            "nul",
            r#"["\ud800"]"#,
            "{}{}",
            "\"\u{1}\"",
        ] {
            assert!(canonical(json).is_err(), "{json}");
        }
        assert!(canonicalize(b"\"\xff\"").is_err());
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(canonical(&deep).unwrap(), deep);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        /// `serde_json` keeps the keys of a `Value` sorted, so its compact form is the canonical one.
        #[test]
        fn it_agrees_with_another_writer(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(canonical(&pretty).unwrap(), value.to_string());
        }
    }
}
