//! Takes a large JSON object apart while it arrives.
//!
//! An answer to `send_join` or `/state` is one object with lists of some 100,000 events in it. The
//! splitter hands out the elements of those lists one by one, as they are written, and keeps the
//! rest. It looks no deeper than it must: whoever gets an element parses it anyway.

/// The input is not what it should be. What was handed out before is as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("not a JSON object, at byte {0}")]
    Syntax(u64),
    #[error("it ends early")]
    Unfinished,
    #[error("the part beside the lists is larger than {0} bytes")]
    RestTooLarge(usize),
}

/// Something out of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// The list, by its number among those that were asked for.
    pub(crate) list: usize,
    /// One JSON value, though perhaps not a well-formed one.
    pub(crate) json: Vec<u8>,
}

/// The state between two pieces of input.
#[derive(Debug)]
pub(crate) struct Splitter {
    lists: &'static [&'static str],
    largest_element: usize,
    largest_rest: usize,
    place: Place,
    value: Value,
    /// The bytes of the key or value that is being read.
    current: Vec<u8>,
    /// The last key, as it is written.
    key: Vec<u8>,
    /// Everything but the lists, as one object, without its last brace.
    rest: Vec<u8>,
    oversized: u64,
    /// How many bytes were read.
    at: u64,
}

/// Where in the outer object the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeObject,
    BeforeKey { first: bool },
    Key,
    BeforeColon,
    BeforeValue,
    OtherValue,
    BeforeElement { list: usize, first: bool },
    Element { list: usize },
    AfterElement { list: usize },
    AfterValue,
    AfterObject,
}

/// How far within a key or value.
#[derive(Clone, Copy, Debug, Default)]
struct Value {
    /// Brackets and braces that are open.
    depth: u32,
    in_string: bool,
    /// After a backslash.
    escaped: bool,
    /// Whether it is longer than it may be; its bytes are not kept.
    oversized: bool,
}

/// What a byte does to the value it belongs to.
enum Step {
    Inside,
    /// It is the value's last.
    Last,
    /// The value ended before it.
    Beyond,
}

impl Value {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    if self.depth == 0 {
                        return Step::Last;
                    }
                }
                _ => {}
            }
            return Step::Inside;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => match self.depth {
                0 => return Step::Beyond,
                1 => return Step::Last,
                _ => self.depth -= 1,
            },
            b',' | b' ' | b'\t' | b'\n' | b'\r' if self.depth == 0 => return Step::Beyond,
            _ => {}
        }
        Step::Inside
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Splitter {
    /// `lists` names the arrays of the outer object to be taken apart. An element of more than
    /// `largest_element` bytes is skipped and counted; more than `largest_rest` bytes beside the lists
    /// are an error.
    pub(crate) fn new(
        lists: &'static [&'static str],
        largest_element: usize,
        largest_rest: usize,
    ) -> Self {
        Self {
            lists,
            largest_element,
            largest_rest,
            place: Place::BeforeObject,
            value: Value::default(),
            current: Vec::new(),
            key: Vec::new(),
            rest: vec![b'{'],
            oversized: 0,
            at: 0,
        }
    }

    /// How many elements were skipped because they were too large.
    pub(crate) fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Reads the next piece of input.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        mut found: impl FnMut(Element),
    ) -> Result<(), SplitError> {
        let mut index = 0;
        while index < input.len() {
            let used = match self.place {
                Place::Key | Place::OtherValue | Place::Element { .. } => {
                    self.inside(&input[index..], &mut found)?
                }
                _ => {
                    self.between(input[index])?;
                    1
                }
            };
            index += used;
            self.at += used as u64;
        }
        Ok(())
    }

    /// Ends the input. Returns everything but the lists, as one JSON object.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, SplitError> {
        if self.place != Place::AfterObject {
            return Err(SplitError::Unfinished);
        }
        self.rest.push(b'}');
        Ok(self.rest)
    }

    /// Reads as much of the current key or value as there is. Returns how many bytes that took.
    fn inside(
        &mut self,
        input: &[u8],
        found: &mut impl FnMut(Element),
    ) -> Result<usize, SplitError> {
        for (index, byte) in input.iter().enumerate() {
            let used = match self.value.step(*byte) {
                Step::Inside => continue,
                Step::Last => index + 1,
                Step::Beyond => index,
            };
            self.keep(&input[..used])?;
            self.complete(found)?;
            return Ok(used);
        }
        self.keep(input)?;
        Ok(input.len())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), SplitError> {
        let limit = match self.place {
            Place::Element { .. } => self.largest_element,
            _ => self.largest_rest.saturating_sub(self.rest.len()),
        };
        if self.current.len() + bytes.len() <= limit && !self.value.oversized {
            self.current.extend_from_slice(bytes);
            return Ok(());
        }
        if !matches!(self.place, Place::Element { .. }) {
            return Err(SplitError::RestTooLarge(self.largest_rest));
        }
        self.value.oversized = true;
        self.current = Vec::new();
        Ok(())
    }

    /// The current key or value is whole.
    fn complete(&mut self, found: &mut impl FnMut(Element)) -> Result<(), SplitError> {
        let json = std::mem::take(&mut self.current);
        match self.place {
            Place::Key => {
                self.key = json;
                self.place = Place::BeforeColon;
            }
            Place::Element { list } => {
                match self.value.oversized {
                    true => self.oversized += 1,
                    false => found(Element { list, json }),
                }
                self.place = Place::AfterElement { list };
            }
            _ => {
                if self.rest.len() > 1 {
                    self.rest.push(b',');
                }
                self.rest.append(&mut self.key);
                self.rest.push(b':');
                self.rest.extend(json);
                if self.rest.len() > self.largest_rest {
                    return Err(SplitError::RestTooLarge(self.largest_rest));
                }
                self.place = Place::AfterValue;
            }
        }
        self.value = Value::default();
        Ok(())
    }

    /// Reads one byte between keys and values.
    fn between(&mut self, byte: u8) -> Result<(), SplitError> {
        if is_space(byte) {
            return Ok(());
        }
        self.place = match (self.place, byte) {
            (Place::BeforeObject, b'{') => Place::BeforeKey { first: true },
            (Place::BeforeKey { first: true }, b'}') => Place::AfterObject,
            (Place::BeforeKey { .. }, b'"') => return self.begin(Place::Key, byte),
            (Place::BeforeColon, b':') => Place::BeforeValue,
            (Place::BeforeValue, b'[') => match self.list() {
                Some(list) => Place::BeforeElement { list, first: true },
                None => return self.begin(Place::OtherValue, byte),
            },
            (Place::BeforeValue, _) => return self.begin(Place::OtherValue, byte),
            (Place::BeforeElement { first: true, .. }, b']') => Place::AfterValue,
            (Place::BeforeElement { list, .. }, _) => {
                return self.begin(Place::Element { list }, byte);
            }
            (Place::AfterElement { list }, b',') => Place::BeforeElement { list, first: false },
            (Place::AfterElement { .. }, b']') => Place::AfterValue,
            (Place::AfterValue, b',') => Place::BeforeKey { first: false },
            (Place::AfterValue, b'}') => Place::AfterObject,
            _ => return Err(SplitError::Syntax(self.at)),
        };
        Ok(())
    }

    /// `byte` is the first of a key or value.
    fn begin(&mut self, place: Place, byte: u8) -> Result<(), SplitError> {
        self.place = place;
        match self.value.step(byte) {
            Step::Inside => self.keep(&[byte]),
            // No value begins with a comma or a closing bracket.
            Step::Last | Step::Beyond => Err(SplitError::Syntax(self.at)),
        }
    }

    /// The list that the last key names.
    fn list(&self) -> Option<usize> {
        let key: String = serde_json::from_slice(&self.key).ok()?;
        self.lists.iter().position(|list| *list == key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    const LISTS: &[&str] = &["state", "auth_chain"];

    fn splitter() -> Splitter {
        Splitter::new(LISTS, 100, 1000)
    }

    /// The elements by list and the rest, read in pieces that end at `cuts`.
    fn split(input: &[u8], cuts: &[usize]) -> Result<(Vec<(usize, String)>, String), SplitError> {
        let mut splitter = splitter();
        let mut elements = Vec::new();
        let mut start = 0;
        for cut in cuts.iter().copied().chain([input.len()]) {
            let end = cut.clamp(start, input.len());
            splitter.feed(&input[start..end], |element| {
                let json = String::from_utf8(element.json).unwrap();
                elements.push((element.list, json));
            })?;
            start = end;
        }
        Ok((elements, String::from_utf8(splitter.finish()?).unwrap()))
    }

    #[test]
    fn lists_are_taken_apart_and_the_rest_is_kept() {
        let input = br#" { "a" : 1, "state":[ {"x":"]}\"\\"} ,2,"s" ] ,"b":[1,[2]],
            "auth_chain":[],"st\u0061te":[[3]],"c":{"state":[9]},"d":"x"} "#;
        let (elements, rest) = split(input, &[]).unwrap();
        let expected = [(0, r#"{"x":"]}\"\\"}"#), (0, "2"), (0, "\"s\""), (0, "[3]")];
        let expected = expected.map(|(list, json)| (list, json.to_owned()));
        assert_eq!(elements, expected);
        assert_eq!(rest, r#"{"a":1,"b":[1,[2]],"c":{"state":[9]},"d":"x"}"#);
    }

    #[test]
    fn a_list_that_is_no_array_is_part_of_the_rest() {
        let (elements, rest) = split(br#"{"state":{"a":1},"auth_chain":null}"#, &[]).unwrap();
        assert_eq!(elements, []);
        assert_eq!(rest, r#"{"state":{"a":1},"auth_chain":null}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let cases = [
            "[]",
            "1",
            "{,}",
            "{1:2}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1]",
            "{} {}",
            "{\"state\":[,]}",
            "{\"state\":[1,]}",
            "{\"state\":[1}}",
            "{\"state\":[1 2]}",
        ];
        for input in cases {
            let refused = split(input.as_bytes(), &[]);
            assert!(
                matches!(refused, Err(SplitError::Syntax(_))),
                "{input}: {refused:?}"
            );
        }
        for input in [
            "",
            "{",
            "{\"a\":1",
            "{\"state\":[{\"a\":\"",
            "{\"state\":[1]",
        ] {
            assert_eq!(
                split(input.as_bytes(), &[]),
                Err(SplitError::Unfinished),
                "{input}"
            );
        }
    }

    #[test]
    fn an_element_that_is_too_large_is_skipped_and_counted() {
        let large = "x".repeat(99);
        let input = format!(r#"{{"state":["{large}",1,"{}",2]}}"#, &large[1..]);
        let mut splitter = splitter();
        let mut found = Vec::new();
        splitter
            .feed(input.as_bytes(), |element| found.push(element.json.len()))
            .unwrap();
        assert_eq!(found, [1, 100, 1]);
        assert_eq!(splitter.oversized(), 1);
    }

    #[test]
    fn a_rest_that_is_too_large_is_refused() {
        let refused = Err(SplitError::RestTooLarge(1000));
        let one = format!(r#"{{"a":"{}"}}"#, "x".repeat(1000));
        assert_eq!(split(one.as_bytes(), &[]), refused);
        let many = format!("{{{}}}", vec![r#""a":"xxxxxxxxxx""#; 100].join(","));
        assert_eq!(split(many.as_bytes(), &[]), refused);
        let key = format!(r#"{{"{}":1}}"#, "x".repeat(1000));
        assert_eq!(split(key.as_bytes(), &[]), refused);
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            "[\\\\\"\\[\\]{},: a-b\u{e9}]{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                prop::collection::btree_map("[\\\\\"{a]{0,3}", inner, 0..3)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(
            state in prop::collection::vec(any_json(), 0..5),
            chain in prop::collection::vec(any_json(), 0..5),
            other in any_json(),
            pretty: bool,
            mut cuts in prop::collection::vec(0..400_usize, 0..40),
        ) {
            let whole = json!({"state": state, "other": other, "auth_chain": chain});
            let input = match pretty {
                true => serde_json::to_string_pretty(&whole).unwrap(),
                false => whole.to_string(),
            };
            cuts.sort_unstable();
            let mut splitter = Splitter::new(LISTS, 10_000, 100_000);
            let mut elements = [Vec::new(), Vec::new()];
            let mut start = 0;
            for cut in cuts.into_iter().chain([input.len()]) {
                let end = cut.clamp(start, input.len());
                splitter.feed(&input.as_bytes()[start..end], |element| {
                    let json: Json = serde_json::from_slice(&element.json).unwrap();
                    elements[element.list].push(json);
                }).unwrap();
                start = end;
            }
            prop_assert_eq!(&elements, &[state, chain]);
            let rest: Json = serde_json::from_slice(&splitter.finish().unwrap()).unwrap();
            prop_assert_eq!(rest, json!({"other": other}));
        }

        #[test]
        fn no_input_makes_it_panic(
            input in "[\\[\\]{}\",: 1a\\\\]*|(\\{\"state\":\\[[\\[\\]{}\",: 1a\\\\]*)",
            cut in 0..50_usize,
        ) {
            let _ = split(input.as_bytes(), &[cut]);
        }
    }
}
