//! The `Authorization` header between servers: server-server API, "Request Authentication".

use myelin_core::keys::KeyPair;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName};

use crate::canonical::{NotJson, canonicalize, quote};

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XMatrix {
    pub(crate) origin: OwnedServerName,
    /// Old servers leave it out.
    pub(crate) destination: Option<OwnedServerName>,
    pub(crate) key_id: OwnedServerSigningKeyId,
    /// Base64.
    pub(crate) signature: String,
}

/// What a signature covers beside the names of the two servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// Path and query, as they are sent.
    pub(crate) target: &'a str,
    /// JSON; empty for requests without a body.
    pub(crate) body: &'a [u8],
}

impl Signed<'_> {
    /// The canonical JSON that is signed.
    pub(crate) fn bytes(
        &self,
        origin: &ServerName,
        destination: Option<&ServerName>,
    ) -> Result<Vec<u8>, NotJson> {
        // In the order of their keys, as canonical JSON has them.
        let content = match self.body {
            [] => None,
            body => Some(canonicalize(body)?),
        };
        let members = [
            ("content", content),
            ("destination", destination.map(|d| quote(d.as_str()))),
            ("method", Some(quote(self.method))),
            ("origin", Some(quote(origin.as_str()))),
            ("uri", Some(quote(self.target))),
        ];
        let mut bytes = vec![b'{'];
        for (key, value) in members {
            let Some(value) = value else { continue };
            if bytes.len() > 1 {
                bytes.push(b',');
            }
            bytes.extend(quote(key));
            bytes.push(b':');
            bytes.extend(value);
        }
        bytes.push(b'}');
        Ok(bytes)
    }

    /// The header for a request to `destination`.
    pub(crate) fn sign(&self, pair: &KeyPair, destination: &ServerName) -> Result<String, NotJson> {
        let origin = pair.server_name();
        let signature = pair.sign_bytes(&self.bytes(origin, Some(destination))?);
        let key_id = pair.key_id();
        Ok(format!(
            "X-Matrix origin=\"{origin}\",destination=\"{destination}\",key=\"{key_id}\",sig=\"{signature}\""
        ))
    }
}

impl XMatrix {
    /// Parses a header's value; `None` if it is of another scheme, malformed, or without a name
    /// that is needed.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (scheme, parameters) = value.trim().split_once([' ', '\t'])?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return None;
        }
        let mut origin = None;
        let mut destination = None;
        let mut key = None;
        let mut signature = None;
        for (name, value) in parse_parameters(parameters)? {
            let place = match name.to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key,
                "sig" => &mut signature,
                _ => continue,
            };
            // Said twice, it could mean one thing here and another elsewhere.
            if place.replace(value).is_some() {
                return None;
            }
        }
        let destination = match destination {
            Some(name) => Some(name.try_into().ok()?),
            None => None,
        };
        Some(Self {
            origin: origin?.try_into().ok()?,
            destination,
            key_id: key?.as_str().try_into().ok()?,
            signature: signature?,
        })
    }
}

/// `name=value` pairs with commas between them; values as tokens or quoted strings. Tokens may
/// hold colons and whatever else isn't a delimiter here, for old servers quote nothing.
fn parse_parameters(text: &str) -> Option<Vec<(&str, String)>> {
    let mut parameters = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        // Empty elements of a list are allowed (RFC 9110, 5.6.1.2).
        if let Some(after) = rest.strip_prefix(',') {
            rest = after.trim_start();
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains([',', '"', ' ', '\t']) {
            return None;
        }
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find([',', ' ', '\t', '"']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        parameters.push((name, value));
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
    Some(parameters)
}

/// The text up to the closing quote, unescaped, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use myelin_core::keys::verify_bytes;
    use proptest::prelude::*;
    use ruma::{owned_server_name, server_name, server_signing_key_version};

    use super::*;

    #[test]
    fn headers_are_parsed_in_every_form_that_is_allowed() {
        let expected = XMatrix {
            origin: owned_server_name!("origin.example:8448"),
            destination: Some(owned_server_name!("destination.example")),
            key_id: "ed25519:a_1".try_into().unwrap(),
            signature: "AB/+c".to_owned(),
        };
        let cases = [
            r#"X-Matrix origin="origin.example:8448",destination="destination.example",key="ed25519:a_1",sig="AB/+c""#,
            r#"x-matrix origin="origin.example:8448",destination="destination.example",key="ed25519:a_1",sig="AB/+c""#,
            r#"X-Matrix   sig="AB/+c" ,	key="ed25519:a_1"  ,destination=destination.example, ORIGIN="origin.example:8448""#,
            "X-Matrix origin=origin.example:8448,destination=destination.example,key=ed25519:a_1,sig=AB/+c",
            r#"X-Matrix origin="origin\.example:8448",destination="destination.ex\ample",key="ed25519:a_1",sig="AB/+c""#,
            r#"X-Matrix origin="origin.example:8448",destination="destination.example",key="ed25519:a_1",sig="AB/+c",extra="a,b=c""#,
            r#"X-Matrix ,origin="origin.example:8448",,destination="destination.example",key="ed25519:a_1",sig="AB/+c","#,
            r#"X-Matrix origin = "origin.example:8448",destination= destination.example,key="ed25519:a_1",sig="AB/+c""#,
        ];
        for header in cases {
            assert_eq!(XMatrix::parse(header).as_ref(), Some(&expected), "{header}");
        }
        let without = r#"X-Matrix origin="origin.example:8448",key="ed25519:a_1",sig="AB/+c""#;
        assert_eq!(XMatrix::parse(without).unwrap().destination, None);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let cases = [
            "",
            "X-Matrix",
            "X-Matrix ",
            r#"Bearer origin="a",key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="a",key="ed25519:1""#,
            r#"X-Matrix origin="a",sig="x""#,
            r#"X-Matrix key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="a",key="ed25519:1",sig="x"#,
            r#"X-Matrix origin="a"key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="a",origin="b",key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="not a name",key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="a",destination="",key="ed25519:1",sig="x""#,
            r#"X-Matrix origin="a",key="no-colon",sig="x""#,
            r#"X-Matrix origin="a",key="ed25519:1",sig="x\"#,
            r#"X-Matrix origin,key="ed25519:1",sig="x""#,
        ];
        for header in cases {
            assert_eq!(XMatrix::parse(header), None, "{header}");
        }
    }

    #[test]
    fn what_is_signed_is_the_canonical_json_of_the_specification() {
        let signed = Signed {
            method: "POST",
            target: "/target?a=%22",
            body: br#"{"b":[1.0],"a":"\u00e9"}"#,
        };
        let bytes = signed.bytes(server_name!("o"), Some(server_name!("d")));
        assert_eq!(
            String::from_utf8(bytes.unwrap()).unwrap(),
            r#"{"content":{"a":"é","b":[1.0]},"destination":"d","method":"POST","origin":"o","uri":"/target?a=%22"}"#
        );
        let signed = Signed {
            method: "GET",
            target: "/t",
            body: b"",
        };
        assert_eq!(
            signed.bytes(server_name!("o"), None).unwrap(),
            br#"{"method":"GET","origin":"o","uri":"/t"}"#
        );
    }

    proptest! {
        #[test]
        fn what_is_signed_is_parsed_and_verifies(target in "/[ -~]*", seed: [u8; 32]) {
            let pair = KeyPair::new(
                owned_server_name!("[::1]:80"), server_signing_key_version!("k_1"), seed);
            let signed = Signed { method: "PUT", target: &target, body: b"{}" };
            let header = signed.sign(&pair, server_name!("d.example:1")).unwrap();
            let parsed = XMatrix::parse(&header).unwrap();
            prop_assert_eq!(parsed.origin.as_str(), "[::1]:80");
            let bytes = signed.bytes(&parsed.origin, parsed.destination.as_deref()).unwrap();
            prop_assert_eq!(verify_bytes(&bytes, &parsed.signature, &pair.verifying_key()), Ok(()));
        }

        #[test]
        fn parsing_never_panics(header in "X-Matrix [ -~\u{e9}]*") {
            let _ = XMatrix::parse(&header);
        }
    }
}
