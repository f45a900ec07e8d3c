//! Reading the configuration, from a file and from environment variables.

use std::{fs, path::Path};

use toml::{Table, Value};

use super::Config;

/// Begins the names of the variables that override keys.
const PREFIX: &str = "MYELIN_";

/// Begins the names of variables that are for the project's own tests.
const TEST_PREFIX: &str = "MYELIN_TEST_";

/// Why the configuration is refused: where, what, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// `FILE:LINE:COLUMN`, or the name of a variable.
    pub place: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// Reads a file, with the process's environment over it.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let refuse = |message: String| ConfigError {
        place: path.display().to_string(),
        message,
    };
    let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let absolute = std::path::absolute(path).map_err(|error| refuse(error.to_string()))?;
    let mut config = parse(&text, path, std::env::vars())?;
    config.resolve_paths(absolute.parent().unwrap_or(&absolute));
    Ok(config)
}

/// Reads the text of a file. Of the variables, those count whose names begin with `MYELIN_`. Paths
/// stay as they are written.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn parse(
    text: &str,
    path: &Path,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let refuse = |error: &toml::de::Error| ConfigError {
        place: place(text, path, error),
        message: error.message().to_owned(),
    };
    let mut config: Config = toml::from_str(text).map_err(|error| refuse(&error))?;
    let mut table: Table = text.parse().map_err(|error| refuse(&error))?;
    let mut overrides: Vec<_> = variables
        .filter(|(name, _)| name.starts_with(PREFIX) && !name.starts_with(TEST_PREFIX))
        .collect();
    overrides.sort();
    for (name, value) in overrides {
        config = override_key(&mut table, &name, &value).map_err(|message| ConfigError {
            place: name,
            message,
        })?;
    }
    Ok(config)
}

/// Sets the key that a variable names. Whether its value is a text or something else is decided by
/// what the key takes.
fn override_key(table: &mut Table, name: &str, value: &str) -> Result<Config, String> {
    let key = name[PREFIX.len()..].to_lowercase();
    let path: Vec<&str> = key.split("__").collect();
    let text = Value::String(value.to_owned());
    let other = value.parse::<bool>().map(Value::Boolean);
    let other = other.or_else(|_| value.parse().map(Value::Integer));
    let other = other.or_else(|_| value.parse().map(Value::Float));
    let mut refused = None;
    for candidate in [Some(text), other.ok()].into_iter().flatten() {
        let mut changed = table.clone();
        set(&mut changed, &path, candidate)?;
        match changed.clone().try_into() {
            Ok(config) => {
                *table = changed;
                return Ok(config);
            }
            // What is wrong with it as a number says more than what is wrong with it as a text.
            Err(error) => refused = Some(error.message().to_owned()),
        }
    }
    Err(refused.unwrap_or_default())
}

fn set(table: &mut Table, path: &[&str], value: Value) -> Result<(), String> {
    match path {
        [] => Ok(()),
        [key] => match table.insert((*key).to_owned(), value) {
            Some(Value::Table(_) | Value::Array(_)) => {
                Err("only keys with a single value can be overridden".to_owned())
            }
            _ => Ok(()),
        },
        [section, rest @ ..] => {
            let section = table
                .entry((*section).to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            match section {
                Value::Table(table) => set(table, rest, value),
                _ => Err("only keys with a single value can be overridden".to_owned()),
            }
        }
    }
}

/// `FILE:LINE:COLUMN`, as far as it is known.
fn place(text: &str, path: &Path, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before
                .chars()
                .rev()
                .take_while(|char| *char != '\n')
                .count()
                + 1;
            format!("{}:{line}:{column}", path.display())
        }
        None => path.display().to_string(),
    }
}
