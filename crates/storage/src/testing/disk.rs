//! A disk that loses its power: what was written but not synced is lost, in whole or in part.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use myelin_env::Random;
use tokio::sync::watch;

/// What survives of a write that was not synced is decided by pieces of this size.
const SECTOR: usize = 512;

/// What becomes of unsynced writes when the power goes.
#[derive(Clone, Debug)]
pub enum Loss {
    /// All are lost.
    Everything,
    /// Each sector of each write is lost or not, by chance: disks write what they like when they like.
    Sectors(Random),
}

/// The files of a machine. Synced content is in real files of the same name.
#[derive(Debug)]
pub(super) struct Disk {
    files: BTreeMap<PathBuf, Content>,
    loss: Loss,
    /// Whether it has power.
    power: watch::Sender<bool>,
    /// Counts the times the power went. Handles from before are dead.
    generation: u64,
    /// Open handles, of this generation and of earlier ones.
    handles: usize,
    dead_handles: usize,
    /// After so many writes, truncations and syncs the power goes.
    operations_left: Option<u64>,
    operations: u64,
    syncs: u64,
    /// How many bytes the files may have together, if there is a limit.
    room: Option<usize>,
}

/// A file.
#[derive(Debug)]
struct Content {
    /// As programs see it.
    current: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Change>,
    durable: File,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// Why a file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DiskError {
    /// The power is off, or was off since the file was opened.
    NoPower,
    /// There is no room for what shall be written.
    Full,
}

impl Disk {
    pub(super) fn new(loss: Loss) -> Self {
        Self {
            files: BTreeMap::new(),
            loss,
            power: watch::Sender::new(true),
            generation: 0,
            handles: 0,
            dead_handles: 0,
            operations_left: None,
            operations: 0,
            syncs: 0,
            room: None,
        }
    }

    /// Opens or creates a file. Whoever has files open from before the power went must close them
    /// first: programs do not survive that either.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<u64> {
        if !self.is_on() || self.dead_handles > 0 {
            return Err(io::Error::other("no power, or the dead still hold files"));
        }
        if !self.files.contains_key(path) {
            let durable = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            let mut current = vec![0; durable.metadata()?.len() as usize];
            durable.read_exact_at(&mut current, 0)?;
            let content = Content {
                current,
                pending: Vec::new(),
                durable,
            };
            self.files.insert(path.to_owned(), content);
        }
        self.handles += 1;
        Ok(self.generation)
    }

    pub(super) fn close(&mut self, generation: u64) {
        if generation == self.generation {
            self.handles -= 1;
        } else {
            self.dead_handles -= 1;
        }
    }

    pub(super) fn is_alive(&self, generation: u64) -> bool {
        self.is_on() && generation == self.generation
    }

    /// Fills `buffer` as far as the file reaches, and says how far.
    pub(super) fn read(
        &self,
        path: &Path,
        generation: u64,
        at: usize,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError> {
        let current = &self.file(path, generation)?.current;
        let available = current.get(at..).unwrap_or_default();
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        Ok(length)
    }

    pub(super) fn write(
        &mut self,
        path: &Path,
        generation: u64,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        self.change(
            path,
            generation,
            Change::Write {
                at,
                bytes: bytes.to_vec(),
            },
        )
    }

    pub(super) fn truncate(
        &mut self,
        path: &Path,
        generation: u64,
        length: usize,
    ) -> Result<(), DiskError> {
        self.change(path, generation, Change::Truncate(length))
    }

    /// Makes the content durable.
    pub(super) fn sync(&mut self, path: &Path, generation: u64) -> Result<(), DiskError> {
        self.count_operation();
        let content = self.file_mut(path, generation)?;
        for change in std::mem::take(&mut content.pending) {
            change.make_durable(&content.durable);
        }
        self.syncs += 1;
        Ok(())
    }

    pub(super) fn length(&self, path: &Path, generation: u64) -> Result<usize, DiskError> {
        Ok(self.file(path, generation)?.current.len())
    }

    /// Whether there is such a file and something in it, if that is known here.
    pub(super) fn has_content(&self, path: &Path) -> Option<bool> {
        self.files
            .get(path)
            .map(|content| !content.current.is_empty())
    }

    /// Forgets a file. Its name is gone for good, synced or not.
    pub(super) fn delete(&mut self, path: &Path) -> Result<(), DiskError> {
        if !self.is_on() {
            return Err(DiskError::NoPower);
        }
        self.files.remove(path);
        Ok(())
    }

    pub(super) fn cut(&mut self) {
        if !self.power.send_replace(false) {
            return;
        }
        self.generation += 1;
        self.operations_left = None;
        self.dead_handles += self.handles;
        self.handles = 0;
        for (_, content) in std::mem::take(&mut self.files) {
            for change in content.pending {
                change.survive(&content.durable, &self.loss);
            }
        }
    }

    pub(super) fn cut_after(&mut self, operations: u64) {
        self.operations_left = Some(operations);
    }

    pub(super) fn set_room(&mut self, room: Option<usize>) {
        self.room = room;
    }

    /// How many bytes the open files have together.
    pub(super) fn used(&self) -> usize {
        self.files.values().map(|file| file.current.len()).sum()
    }

    pub(super) fn restore(&mut self) {
        self.power.send_replace(true);
    }

    /// Follows whether there is power.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.power.subscribe()
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs
    }

    fn change(&mut self, path: &Path, generation: u64, change: Change) -> Result<(), DiskError> {
        self.count_operation();
        let room = self.room.map(|room| room.saturating_sub(self.used()));
        let content = self.file_mut(path, generation)?;
        match &change {
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                let grows_by = end.saturating_sub(content.current.len());
                if room.is_some_and(|room| grows_by > room) {
                    return Err(DiskError::Full);
                }
                if content.current.len() < end {
                    content.current.resize(end, 0);
                }
                content.current[*at..end].copy_from_slice(bytes);
            }
            Change::Truncate(length) => content.current.resize(*length, 0),
        }
        content.pending.push(change);
        Ok(())
    }

    fn is_on(&self) -> bool {
        *self.power.borrow()
    }

    fn count_operation(&mut self) {
        self.operations += 1;
        match &mut self.operations_left {
            Some(0) => self.cut(),
            Some(left) => *left -= 1,
            None => {}
        }
    }

    fn file(&self, path: &Path, generation: u64) -> Result<&Content, DiskError> {
        if !self.is_alive(generation) {
            return Err(DiskError::NoPower);
        }
        self.files.get(path).ok_or(DiskError::NoPower)
    }

    fn file_mut(&mut self, path: &Path, generation: u64) -> Result<&mut Content, DiskError> {
        if !self.is_alive(generation) {
            return Err(DiskError::NoPower);
        }
        self.files.get_mut(path).ok_or(DiskError::NoPower)
    }
}

impl Change {
    fn make_durable(self, file: &File) {
        let made = match self {
            Self::Write { at, bytes } => file.write_all_at(&bytes, at as u64),
            Self::Truncate(length) => file.set_len(length as u64),
        };
        made.expect("the real disk below a test works");
    }

    /// Writes what is left of an unsynced change.
    fn survive(self, file: &File, loss: &Loss) {
        let Loss::Sectors(random) = loss else {
            return;
        };
        match self {
            Self::Write { at, bytes } => {
                for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                    if random.below(2) == 0 {
                        let write = Self::Write {
                            at: at + index * SECTOR,
                            bytes: sector.to_vec(),
                        };
                        write.make_durable(file);
                    }
                }
            }
            Self::Truncate(_) => {
                if random.below(2) == 0 {
                    self.make_durable(file);
                }
            }
        }
    }
}
