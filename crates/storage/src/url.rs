//! Where the database is.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{StorageError, postgres::tls::Security};

/// The address of a database: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST:PORT/NAME`.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file of SQLite. It is created if it does not exist; its directory must.
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The registered SQLite VFS to open it with (`?vfs=NAME`); none for the platform's own.
        vfs: Option<String>,
    },
    /// A database of a PostgreSQL server, in the form that libpq takes. `sslmode` is `disable`, `prefer`,
    /// `require` or `verify-full`; with the last, `sslrootcert` may name a file of root certificates.
    Postgres(String),
}

impl FromStr for DatabaseUrl {
    type Err = StorageError;

    /// # Errors
    /// [`StorageError::Refused`] if it has neither form, or asks for a TLS that there is not.
    fn from_str(url: &str) -> Result<Self, StorageError> {
        if let Some(rest) = url.strip_prefix("sqlite:") {
            let (path, vfs) = match rest.split_once("?vfs=") {
                Some((path, vfs)) => (path, Some(vfs.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(StorageError::Refused(
                    "the database URL names no file: expected sqlite:PATH".to_owned(),
                ));
            }
            return Ok(Self::Sqlite {
                path: PathBuf::from(path),
                vfs,
            });
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Security::take(url)?;
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err(StorageError::Refused(
            "the database URL has to be sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME"
                .to_owned(),
        ))
    }
}

/// Without the password.
impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path, .. } => write!(formatter, "sqlite:{}", path.display()),
            Self::Postgres(url) => {
                let place = url.rsplit_once('@').map_or("…", |(_, place)| place);
                write!(formatter, "postgres://{place}")
            }
        }
    }
}
