//! What of an event is found by its words, and which words a user looks for (client-server API, "Server Side
//! Search").
//!
//! Words are taken apart here and not by the database, so that every engine finds the same. Rooms are written
//! in every language: there is no stemming. Instead a word of some length finds all that begin with it.

use std::collections::BTreeSet;

use serde::Deserialize;
use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// Of how many characters a word that is longer is known by. No engine takes words of any length.
const MAX_WORD: usize = 64;

/// From how many characters on a word finds those that begin with it.
const MIN_PREFIX: usize = 3;

/// How many words are looked for at most.
const MAX_TERMS: usize = 32;

/// A part of an event that is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum SearchKey {
    /// What a message says.
    #[serde(rename = "content.body")]
    Body,
    /// What the room is called.
    #[serde(rename = "content.name")]
    Name,
    /// What it is about.
    #[serde(rename = "content.topic")]
    Topic,
}

impl SearchKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Body, Self::Name, Self::Topic];
}

/// What an event has to do with the index of words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Indexed {
    /// It is found by this text.
    Text(SearchKey, String),
    /// It may take an event out: the one with this ID.
    Redaction(String),
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    event_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    state_key: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Fields<T> {
    content: T,
}

#[derive(Deserialize)]
struct Body {
    body: String,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct Topic {
    topic: String,
}

/// Room version 11 put it into the content.
#[derive(Deserialize)]
struct Redacts {
    redacts: Option<String>,
    content: InContent,
}

#[derive(Deserialize)]
struct InContent {
    redacts: Option<String>,
}

impl Indexed {
    /// What an event, as JSON, has to do with it. Most have nothing.
    pub fn of(json: &str) -> Option<Self> {
        let kind: Kind<'_> = serde_json::from_str(json).ok()?;
        let (key, text) = match (&*kind.event_type, kind.state_key.as_deref()) {
            ("m.room.message", None) => (SearchKey::Body, content::<Body>(json)?.body),
            ("m.room.name", Some("")) => (SearchKey::Name, content::<Name>(json)?.name),
            ("m.room.topic", Some("")) => (SearchKey::Topic, content::<Topic>(json)?.topic),
            ("m.room.redaction", None) => {
                let redacts: Redacts = serde_json::from_str(json).ok()?;
                return redacts
                    .redacts
                    .or(redacts.content.redacts)
                    .map(Self::Redaction);
            }
            _ => return None,
        };
        Some(Self::Text(key, text))
    }

    /// The text by which an event, as JSON, is found.
    pub fn text_of(json: &str) -> Option<String> {
        match Self::of(json)? {
            Self::Text(_, text) => Some(text),
            Self::Redaction(_) => None,
        }
    }
}

fn content<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    let fields: Fields<T> = serde_json::from_str(json).ok()?;
    Some(fields.content)
}

/// The words of a text, in order: runs of letters and digits without regard to case. Where a script puts no
/// spaces between words, each character is one.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut length = 0;
    for character in text.nfkc().flat_map(char::to_lowercase) {
        let stands_alone = is_unspaced(character);
        let is_part = character.is_alphanumeric() || is_combining_mark(character);
        if (stands_alone || !is_part) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
            length = 0;
        }
        if stands_alone {
            words.push(character.to_string());
        } else if is_part && length < MAX_WORD {
            word.push(character);
            length += 1;
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Thai, Lao, Myanmar, Khmer, kana and Han.
fn is_unspaced(character: char) -> bool {
    let blocks = [
        '\u{e00}'..='\u{eff}',
        '\u{1000}'..='\u{109f}',
        '\u{1780}'..='\u{17ff}',
        '\u{3040}'..='\u{30ff}',
        '\u{3400}'..='\u{9fff}',
        '\u{f900}'..='\u{faff}',
        '\u{20000}'..='\u{3ffff}',
    ];
    character.is_alphanumeric() && blocks.iter().any(|block| block.contains(&character))
}

/// A word that is looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// In the form of [`words`].
    pub word: String,
    /// Whether it finds the words that begin with it, too.
    pub is_prefix: bool,
}

impl Term {
    fn finds(&self, word: &str) -> bool {
        word == self.word || (self.is_prefix && word.starts_with(&self.word))
    }
}

/// The words that a user looks for, each once: all of them have to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms(Vec<Term>);

impl Terms {
    /// Those of a text that a user wrote. Of too many only the first count.
    pub fn of(text: &str) -> Self {
        let mut seen = BTreeSet::new();
        let mut words = words(text);
        words.retain(|word| seen.insert(word.clone()));
        words.truncate(MAX_TERMS);
        let terms = words.into_iter().map(|word| Term {
            is_prefix: word.chars().count() >= MIN_PREFIX,
            word,
        });
        Self(terms.collect())
    }

    /// The same, where every word finds those that begin with it, however short it is: for who writes a name
    /// and has not finished.
    pub fn beginnings(text: &str) -> Self {
        let mut terms = Self::of(text);
        for term in &mut terms.0 {
            term.is_prefix = true;
        }
        terms
    }

    /// The same, where every word finds itself only.
    pub fn whole(text: &str) -> Self {
        let mut terms = Self::of(text);
        for term in &mut terms.0 {
            term.is_prefix = false;
        }
        terms
    }

    /// The words.
    pub fn as_slice(&self) -> &[Term] {
        &self.0
    }

    /// Whether nothing is looked for, and so nothing found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How well a text fits: 0 if it does not. Whole words count twice what beginnings do, and what is said in
    /// many words counts less.
    pub fn rank(&self, text: &str) -> f64 {
        let words = words(text);
        let mut sum = 0.0;
        for term in &self.0 {
            let found = words.iter().filter(|word| term.finds(word));
            let weights = found.map(|word| if *word == term.word { 2.0 } else { 1.0 });
            let weight: f64 = weights.sum();
            if weight == 0.0 {
                return 0.0;
            }
            // What is said again and again says little more.
            sum += 1.0 + weight.ln();
        }
        sum / (1.0 + (words.len() as f64).ln_1p())
    }

    /// The words of a text that were looked for.
    pub fn found_in(&self, text: &str) -> BTreeSet<String> {
        let words = words(text).into_iter();
        words
            .filter(|word| self.0.iter().any(|term| term.finds(word)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Indexed, SearchKey, Terms, words};
    use proptest::{prop_assert, proptest};

    #[test]
    fn words_are_letters_and_digits_whatever_stands_between() {
        let cases: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("?! -- \u{1f600}", &[]),
            ("Hello, WORLD", &["hello", "world"]),
            ("don't-stop_me.now", &["don", "t", "stop", "me", "now"]),
            ("\"a\" OR b* NEAR(c)", &["a", "or", "b", "near", "c"]),
            ("Ｆｕｌｌ　ｗｉｄｔｈ", &["full", "width"]),
            ("cafe\u{301} Straße", &["café", "straße"]),
            ("東京タワーA塔", &["東", "京", "タ", "ワ", "ー", "a", "塔"]),
            ("हिन्दी भाषा", &["हिन्दी", "भाषा"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), expected, "{text}");
        }
        assert_eq!(words(&"x".repeat(100)), ["x".repeat(64)]);
    }

    proptest! {
        #[test]
        fn no_word_has_what_a_query_could_be_made_of(text: String) {
            for word in words(&text) {
                prop_assert!(!word.is_empty());
                let is_plain = |character: char| !character.is_ascii() || character.is_ascii_alphanumeric();
                prop_assert!(word.chars().all(is_plain), "{word:?}");
                prop_assert!(!word.contains('\0'));
            }
        }

        #[test]
        fn a_text_is_found_by_its_own_words(text in "\\PC{1,40}") {
            let terms = Terms::of(&text);
            prop_assert!(terms.is_empty() || terms.rank(&text) > 0.0);
        }
    }

    #[test]
    fn all_words_have_to_be_there_and_long_ones_may_go_on() {
        let text = "The messages of the day";
        for (term, is_found) in [
            ("day", true),
            ("Message", true),
            ("message DAY", true),
            ("message night", false),
            // Too short to stand for what begins with it.
            ("me", false),
            ("ssages", false),
        ] {
            assert_eq!(Terms::of(term).rank(text) > 0.0, is_found, "{term}");
        }
        assert!(Terms::whole("day").rank(text) > 0.0);
        assert_eq!(Terms::whole("message").rank(text), 0.0);
        let found = Terms::of("mess the").found_in(text);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["messages", "the"]);
        assert!(Terms::beginnings("m").rank(text) > 0.0);
    }

    #[test]
    fn what_says_nothing_else_fits_better() {
        let terms = Terms::of("cat");
        let ranks = ["cat", "cats", "the cat sat on the mat", "a dog"].map(|text| terms.rank(text));
        assert!(ranks.is_sorted_by(|one, next| one > next), "{ranks:?}");
        // A text that is the word has 1. Beginnings have half the weight, whose logarithm counts.
        let of_words = |words: f64| 1.0 + words.ln_1p();
        let two = 2.0_f64.ln();
        for (terms, text, rank) in [
            ("cat", "cat", 1.0),
            ("cat", "cats", 1.0 / of_words(1.0)),
            ("cat", "cat cat", (1.0 + two + two) / of_words(2.0)),
            ("cat dog", "dog cat", 2.0 * (1.0 + two) / of_words(2.0)),
        ] {
            let found = Terms::of(terms).rank(text);
            assert!((found - rank).abs() < 1e-9, "{terms} in {text}: {found}");
        }
    }

    #[test]
    fn each_of_the_first_words_is_looked_for_once() {
        let text = (0..40).map(|n| format!("w{n} w0 ")).collect::<String>();
        let terms = Terms::of(&text);
        let words: Vec<_> = terms.as_slice().iter().map(|term| &*term.word).collect();
        assert_eq!(words, (0..32).map(|n| format!("w{n}")).collect::<Vec<_>>());
        assert!(Terms::of("?").is_empty() && !terms.is_empty());
    }

    #[test]
    fn messages_names_topics_and_redactions_concern_the_index() {
        let text = |key, text: &str| Some(Indexed::Text(key, text.to_owned()));
        let redaction = Some(Indexed::Redaction("$e".to_owned()));
        let cases = [
            (
                r#"{"type":"m.room.message","content":{"body":"b"}}"#,
                text(SearchKey::Body, "b"),
            ),
            (
                r#"{"type":"m.room.name","state_key":"","content":{"name":"n"}}"#,
                text(SearchKey::Name, "n"),
            ),
            (
                r#"{"type":"m.room.topic","state_key":"","content":{"topic":"t"}}"#,
                text(SearchKey::Topic, "t"),
            ),
            (
                r#"{"type":"m.room.redaction","redacts":"$e","content":{}}"#,
                redaction.clone(),
            ),
            (
                r#"{"type":"m.room.redaction","content":{"redacts":"$e"}}"#,
                redaction,
            ),
            (r#"{"type":"m.room.redaction","content":{}}"#, None),
            (r#"{"type":"m.room.message","content":{"body":1}}"#, None),
            (r#"{"type":"m.room.message","content":{}}"#, None),
            (
                r#"{"type":"m.room.message","state_key":"","content":{"body":"b"}}"#,
                None,
            ),
            (r#"{"type":"m.room.name","content":{"name":"n"}}"#, None),
            (
                r#"{"type":"m.room.name","state_key":"x","content":{"name":"n"}}"#,
                None,
            ),
            (
                r#"{"type":"m.room.encrypted","content":{"body":"b"}}"#,
                None,
            ),
            ("", None),
        ];
        for (json, expected) in cases {
            let text = match &expected {
                Some(Indexed::Text(_, text)) => Some(text.clone()),
                _ => None,
            };
            assert_eq!(Indexed::text_of(json), text, "{json}");
            assert_eq!(Indexed::of(json), expected, "{json}");
        }
    }
}
