//! Parameters of statements.

use std::borrow::Cow;

use myelin_core::number::{EventNr, RoomNr, SnapshotNr, StreamPosition};

use crate::StorageError;

/// A value for a `$n` of a statement. Borrows what it can.
#[derive(Clone, Debug, PartialEq)]
pub enum Param<'a> {
    /// NULL, of any type.
    Null,
    /// A BIGINT.
    Int(i64),
    /// An unsigned number that a BIGINT cannot hold: [`StorageError::Unstorable`].
    TooLarge(u64),
    /// A BOOLEAN.
    Bool(bool),
    /// A TEXT. With U+0000 in it, it is [`StorageError::Unstorable`]; foreign text that may hold one is a
    /// blob, or is escaped.
    Text(&'a str),
    /// A BYTEA.
    Blob(&'a [u8]),
    /// For `int_list($n)`.
    IntList(Cow<'a, [i64]>),
    /// For `text_list($n)`.
    TextList(Vec<&'a str>),
    /// For `blob_list($n)`.
    BlobList(Vec<&'a [u8]>),
}

impl Param<'_> {
    /// Refuses what one of the engines cannot hold, so that neither does.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        let has_nul = match self {
            Self::TooLarge(_) => return Err(StorageError::Unstorable("a number of 64 bits")),
            Self::Text(text) => text.contains('\0'),
            Self::TextList(texts) => texts.iter().any(|text| text.contains('\0')),
            Self::Null
            | Self::Int(_)
            | Self::Bool(_)
            | Self::Blob(_)
            | Self::IntList(_)
            | Self::BlobList(_) => false,
        };
        match has_nul {
            true => Err(StorageError::Unstorable("a text with U+0000")),
            false => Ok(()),
        }
    }
}

/// The parameters of a statement, in the order of their numbers.
///
/// ```
/// # use myelin_storage::{Param, params};
/// let name = String::from("@a:b.example");
/// let parameters: &[Param<'_>] = params![&name, 5_u32, Option::<&str>::None];
/// assert_eq!(parameters[2], Param::Null);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::Param::from($value)),*]
    };
}

/// A message for people, as text: what others wrote may be quoted in it, and U+0000 is shown as U+FFFD.
pub(crate) fn message(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

impl From<u64> for Param<'_> {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::TooLarge(value), Self::Int)
    }
}

impl From<usize> for Param<'_> {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Conversions that are one expression.
macro_rules! convert {
    ($($type:ty: $value:ident => $param:expr;)*) => {
        $(impl<'a> From<$type> for Param<'a> {
            fn from($value: $type) -> Self {
                $param
            }
        })*
    };
}

convert! {
    i64: value => Self::Int(value);
    i32: value => Self::Int(value.into());
    u32: value => Self::Int(value.into());
    u16: value => Self::Int(value.into());
    u8: value => Self::Int(value.into());
    RoomNr: value => Self::Int(value.0);
    EventNr: value => Self::Int(value.0);
    SnapshotNr: value => Self::Int(value.0);
    StreamPosition: value => Self::Int(value.0);
    bool: value => Self::Bool(value);
    &'a str: value => Self::Text(value);
    &'a String: value => Self::Text(value);
    &'a [u8]: value => Self::Blob(value);
    &'a Vec<u8>: value => Self::Blob(value);
    Vec<i64>: value => Self::IntList(Cow::Owned(value));
    &'a [i64]: value => Self::IntList(Cow::Borrowed(value));
    &'a Vec<i64>: value => Self::IntList(Cow::Borrowed(value));
    Vec<&'a str>: value => Self::TextList(value);
    &[&'a str]: value => Self::TextList(value.to_vec());
    &'a [String]: value => Self::TextList(value.iter().map(String::as_str).collect());
    &'a Vec<String>: value => Self::TextList(value.iter().map(String::as_str).collect());
    Vec<&'a [u8]>: value => Self::BlobList(value);
    &[&'a [u8]]: value => Self::BlobList(value.to_vec());
    &'a [Vec<u8>]: value => Self::BlobList(value.iter().map(Vec::as_slice).collect());
    &'a Vec<Vec<u8>>: value => Self::BlobList(value.iter().map(Vec::as_slice).collect());
}

impl<'a, const N: usize> From<&'a [u8; N]> for Param<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Blob(value)
    }
}

impl<'a, const N: usize> From<&'a [[u8; N]]> for Param<'a> {
    fn from(value: &'a [[u8; N]]) -> Self {
        Self::BlobList(value.iter().map(<[u8; N]>::as_slice).collect())
    }
}

impl<'a> FromIterator<&'a [u8]> for Param<'a> {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(values: I) -> Self {
        Self::BlobList(values.into_iter().collect())
    }
}

impl<'a> FromIterator<&'a str> for Param<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(values: I) -> Self {
        Self::TextList(values.into_iter().collect())
    }
}

impl FromIterator<i64> for Param<'_> {
    fn from_iter<I: IntoIterator<Item = i64>>(values: I) -> Self {
        Self::IntList(values.into_iter().collect())
    }
}
