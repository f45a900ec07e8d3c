//! What is to be said of each key, and the two texts made of it: the file with all defaults, and
//! `docs/configuration.md`.

use super::Config;

/// What both texts begin with.
const RULES: &str = "\
Every key is optional. An unknown key, or a value that a key does not take, is refused with its place: a typing
error shall not leave you with a default. Relative paths count from the directory of the file. Any key outside
`[[listeners]]` that has a single value can be overridden by an environment variable: `MYELIN_` and the key's
name in capitals, with `__` between section and key, for instance `MYELIN_DATABASE__URL`.
";

/// A key, or a section of keys.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The lines of its documentation, each behind a blank.
    pub(super) meaning: &'static str,
    /// Of a key without a default, a value in TOML.
    pub(super) example: Option<&'static str>,
    pub(super) holds: Holds,
}

/// What stands behind a key's name.
pub(super) enum Holds {
    /// One value, or a list of values.
    Value {
        kind: String,
        /// In TOML.
        default: Option<String>,
    },
    /// A section, once.
    Section(Vec<Key>),
    /// A section that may be there several times, by the keys of the one that is there by default.
    Sections(Vec<Key>),
}

/// The type of a field of the configuration.
pub(super) trait Documented {
    /// What it takes; with this value as the default.
    fn holds(&self) -> Holds;
}

/// The type of a single value.
pub(super) trait Value {
    /// What it is called; with an `s` it is several.
    fn kind() -> String;

    /// How it stands in the file.
    fn written(&self) -> String;
}

impl<V: Value> Documented for V {
    fn holds(&self) -> Holds {
        Holds::Value {
            kind: V::kind(),
            default: Some(self.written()),
        }
    }
}

impl<V: Value> Documented for Option<V> {
    fn holds(&self) -> Holds {
        Holds::Value {
            kind: V::kind(),
            default: self.as_ref().map(V::written),
        }
    }
}

/// A section of the configuration, whose documentation comments are the operator's documentation. A key
/// that has no default has an `example` instead.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        $section_visibility:vis struct $section:ident {
            $(
                $(#[doc = $meaning:literal])+
                $(#[example = $example:literal])?
                $(#[serde($($serde:tt)*)])?
                $visibility:vis $key:ident: $kind:ty,
            )+
        }
    ) => {
        $(#[$attribute])*
        $section_visibility struct $section {
            $(
                $(#[doc = $meaning])+
                $(#[serde($($serde)*)])?
                $visibility $key: $kind,
            )+
        }

        impl $section {
            /// All keys, in order, with the values of this section as defaults.
            pub(in $crate::config) fn keys(&self) -> Vec<$crate::config::reference::Key> {
                vec![$($crate::config::reference::Key {
                    name: stringify!($key),
                    meaning: concat!($($meaning, "\n"),+),
                    example: None$(.or(Some($example)))?,
                    holds: $crate::config::reference::Documented::holds(&self.$key),
                }),+]
            }
        }

        impl $crate::config::reference::Documented for $section {
            fn holds(&self) -> $crate::config::reference::Holds {
                $crate::config::reference::Holds::Section(self.keys())
            }
        }
    };
}
pub(super) use section;

/// The file in which every key stands with its meaning and this configuration's value.
#[must_use]
pub fn documented_file(config: &Config) -> String {
    let mut file = String::from("# Myelin's configuration.\n#\n");
    comment(&mut file, RULES);
    write_keys(&mut file, &config.keys());
    file
}

fn write_keys(file: &mut String, keys: &[Key]) {
    for key in keys {
        file.push('\n');
        comment(file, key.meaning);
        let name = key.name;
        match &key.holds {
            Holds::Value { default, .. } => match (default, key.example) {
                (Some(default), _) => file.push_str(&format!("{name} = {default}\n")),
                (None, example) => {
                    file.push_str(&format!("# {name} = {}\n", example.unwrap_or_default()));
                }
            },
            Holds::Section(keys) => {
                file.push_str(&format!("[{name}]\n"));
                write_keys(file, keys);
            }
            Holds::Sections(keys) => {
                file.push_str(&format!("[[{name}]]\n"));
                write_keys(file, keys);
            }
        }
    }
}

fn comment(file: &mut String, text: &str) {
    for line in text.lines() {
        file.push_str(&format!("# {}\n", line.trim_start()));
    }
}

/// `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = format!(
        "# Configuration\n\n{RULES}\n\
         `myelin config defaults` prints a file with all of this, which a first start writes as well, and\n\
         `myelin config check` says what is wrong with a file. This page is printed by `myelin config reference`.\n"
    );
    let keys = Config::default().keys();
    let (values, sections): (Vec<_>, Vec<_>) = keys
        .into_iter()
        .partition(|key| matches!(key.holds, Holds::Value { .. }));
    page.push_str("\n## At the top\n");
    write_table(&mut page, &values);
    for section in sections {
        let (title, keys) = match section.holds {
            Holds::Section(keys) => (format!("[{}]", section.name), keys),
            Holds::Sections(keys) => (format!("[[{}]]", section.name), keys),
            Holds::Value { .. } => continue,
        };
        let meaning = in_one_line(section.meaning);
        page.push_str(&format!("\n## `{title}`\n\n{meaning}\n"));
        write_table(&mut page, &keys);
    }
    page
}

fn write_table(page: &mut String, keys: &[Key]) {
    page.push_str("\n| Key | Takes | Default | Meaning |\n|---|---|---|---|\n");
    for key in keys {
        // A section within a section is no table of ours.
        let Holds::Value { kind, default } = &key.holds else {
            continue;
        };
        let default = default.as_ref();
        let default = default.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let mut meaning = in_one_line(key.meaning);
        if let Some(example) = key.example {
            meaning.push_str(&format!(" For instance `{example}`."));
        }
        let name = key.name;
        page.push_str(&format!("| `{name}` | {kind} | {default} | {meaning} |\n"));
    }
}

fn in_one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines.join(" ")
}
