//! The SQLite engine: one writer on a thread of its own, readers beside it, checkpoints off the
//! writer's path. Where everything happens on one thread, the writer is a task.

mod checkpoints;
mod committer;
mod queue;
mod readers;
mod session;

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use myelin_env::{Clock, Env};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

pub(crate) use self::session::Session;
use self::{checkpoints::Checkpoints, committer::Committer, readers::Readers};
use crate::{Priority, StorageError, database::Work, tx::Reading};

/// How long a connection waits for another's lock. Only checkpoints and the first moments of a
/// connection can meet one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Sqlite::close`] waits for reads that are under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database file. The fields are dropped in their order: the lock goes last.
#[derive(Debug)]
pub(crate) struct Sqlite {
    committer: Committer,
    checkpoints: Arc<Checkpoints>,
    readers: Arc<Readers>,
    /// None once it is closed.
    lock: Mutex<Option<File>>,
}

/// How to open the file.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    vfs: Option<String>,
}

impl Sqlite {
    pub(crate) fn open(path: &Path, vfs: Option<&str>, env: &Env) -> Result<Self, StorageError> {
        let lock = lock(path)?;
        let place = Place {
            path: path.to_owned(),
            vfs: vfs.map(str::to_owned),
        };
        // The writer first: it creates the file and makes it a WAL database.
        let writer = place.writer()?;
        let checkpoints = Arc::new(Checkpoints::start(place.checkpointer()?, env)?);
        let committer = Committer::start(writer, Arc::clone(&checkpoints), env)?;
        Ok(Self {
            committer,
            checkpoints,
            readers: Arc::new(Readers::new(place, env.clock.clone())),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Runs a read. The one place that decides where: on the calling task, since a point query costs
    /// a few microseconds and a thread change as many.
    pub(crate) async fn read(
        &self,
        name: &'static str,
        reading: Reading,
        work: Work,
    ) -> Result<(), StorageError> {
        let mut lease = self.readers.lease(name, reading).await?;
        let succeeded = work(lease.tx()).await;
        lease.finish(succeeded)
    }

    pub(crate) async fn write(
        &self,
        name: &'static str,
        priority: Priority,
        work: Work,
    ) -> Result<(), StorageError> {
        self.committer.submit(name, priority, work).await
    }

    /// Ends all connections, and leaves one file without a log beside it.
    pub(crate) async fn close(&self, clock: &Clock) {
        self.committer.close().await;
        if clock
            .timeout(CLOSE_TIMEOUT, self.readers.close())
            .await
            .is_err()
        {
            tracing::warn!("reads were still going on when the database was closed");
        }
        self.checkpoints.close();
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = None;
    }
}

/// Holds the file for this process, by a lock on a file beside it: SQLite's own locks would let a
/// second process in.
fn lock(path: &Path) -> Result<File, StorageError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let cannot = |error: std::io::Error| {
        StorageError::Refused(format!("cannot open {}: {error}", name.display()))
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Refused(format!(
            "{} is in use by another Myelin process",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

impl Place {
    fn writer(&self) -> Result<Connection, StorageError> {
        let writer =
            self.open(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // The page cache holds what a bulk transaction touches.
        writer.pragma_update(None, "cache_size", -16_384)?;
        // What a bulk load made of the log is given back when it is begun anew.
        writer.pragma_update(None, "journal_size_limit", 8 << 20)?;
        Ok(writer)
    }

    fn checkpointer(&self) -> Result<Connection, StorageError> {
        let checkpointer = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        checkpointer.pragma_update(None, "cache_size", -256)?;
        Ok(checkpointer)
    }

    fn reader(&self) -> Result<Connection, StorageError> {
        let reader = self.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reader.pragma_update(None, "cache_size", -4_096)?;
        Ok(reader)
    }

    fn open(&self, mode: OpenFlags) -> Result<Connection, StorageError> {
        // Each connection is used by one thread at a time, which `&mut` proves.
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = match &self.vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str()),
            None => Connection::open_with_flags(&self.path, flags),
        };
        let connection = opened.map_err(|error| {
            StorageError::Refused(format!("cannot open {}: {error}", self.path.display()))
        })?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(512);
        // A plan does not depend on values. Else each statement that might use a partial index is compiled anew
        // whenever it gets values.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        if mode.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
            connection.pragma_update(None, "journal_mode", "WAL")?;
        }
        // FULL: a commit is on the disk when it returns.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // Errors of a mapped file arrive as signals.
        connection.pragma_update(None, "mmap_size", 0)?;
        rusqlite::vtab::array::load_module(&connection)?;
        Ok(connection)
    }
}

/// SQLite's errors by what the caller can do.
impl From<rusqlite::Error> for StorageError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OperationInterrupted
                | ErrorCode::OperationAborted
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SystemIoFailure,
            ) => Self::Unavailable(text),
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(text),
            Some(ErrorCode::ConstraintViolation) => Self::Constraint(text),
            _ => Self::Bug(text),
        }
    }
}
