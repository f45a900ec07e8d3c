//! A SQLite VFS on a [`Disk`] that loses its power.
//!
//! It stands on the platform's own VFS, which keeps the locks and the shared memory of its
//! connections; content goes to the disk's model.

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use rusqlite::ffi::{
    SQLITE_ACCESS_EXISTS, SQLITE_CANTOPEN, SQLITE_ERROR, SQLITE_FCNTL_SIZE_HINT, SQLITE_FULL,
    SQLITE_IOERR, SQLITE_IOERR_SHORT_READ, SQLITE_OK, SQLITE_SHM_UNLOCK, sqlite3_file,
    sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
};

use super::disk::{Disk, DiskError, Loss};
use crate::DatabaseUrl;

/// The power of a machine with databases on it.
///
/// ```
/// # use myelin_storage::{Database, testing::{Loss, PowerCut}};
/// # async fn example(env: &myelin_env::Env) -> Result<(), myelin_storage::StorageError> {
/// let power = PowerCut::new(Loss::Everything);
/// let url = power.url("/tmp/a/directory/myelin.db");
/// let database = Database::open(&url, env).await?;
/// // … writes …
/// power.cut(); // whatever is under way fails, and what was not synced is gone
/// drop(database); // the program ends: all its connections are closed
/// power.restore();
/// let database = Database::open(&url, env).await?; // what a power cut leaves
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PowerCut {
    name: String,
    disk: Arc<Mutex<Disk>>,
}

impl PowerCut {
    /// A machine with its power on. Lasts until the process ends, as SQLite's VFSes do.
    ///
    /// # Panics
    /// If SQLite refuses the VFS.
    #[must_use]
    pub fn new(loss: Loss) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("power-cut-{number}");
        let disk = Arc::new(Mutex::new(Disk::new(loss)));
        register(&name, Arc::clone(&disk));
        Self { name, disk }
    }

    /// The URL of a database on this machine.
    pub fn url(&self, path: impl Into<PathBuf>) -> DatabaseUrl {
        DatabaseUrl::Sqlite {
            path: path.into(),
            vfs: Some(self.name.clone()),
        }
    }

    /// The name by which SQLite knows it, for `sqlite:PATH?vfs=NAME`.
    #[must_use]
    pub fn vfs(&self) -> &str {
        &self.name
    }

    /// Cuts the power: unsynced writes are lost, and every use of an open file fails.
    pub fn cut(&self) {
        lock(&self.disk).cut();
    }

    /// Cuts the power after so many more writes, truncations and syncs.
    pub fn cut_after(&self, operations: u64) {
        lock(&self.disk).cut_after(operations);
    }

    /// Power again. Databases that were open must have been dropped before any can be opened.
    pub fn restore(&self) {
        lock(&self.disk).restore();
    }

    /// Leaves room on the disk for so many bytes more than the open files have. What needs more is refused.
    pub fn leave_room_for(&self, bytes: usize) {
        let mut disk = lock(&self.disk);
        let used = disk.used();
        disk.set_room(Some(used + bytes));
    }

    /// A disk that is never full, as in the beginning.
    pub fn make_room(&self) {
        lock(&self.disk).set_room(None);
    }

    /// Whether there is power.
    #[must_use]
    pub fn is_on(&self) -> bool {
        *lock(&self.disk).watch().borrow()
    }

    /// Waits until the power is gone.
    pub async fn lost(&self) {
        let mut power = lock(&self.disk).watch();
        // The disk, which is the sender, is held by `self`.
        power.wait_for(|on| !on).await.ok();
    }

    /// How many writes, truncations and syncs there were so far: what [`PowerCut::cut_after`] counts.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.disk).operations()
    }

    /// How often a file was made durable so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.disk).syncs()
    }
}

/// The state is whole at every point a panic could strike, so a poisoned lock means nothing.
fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a VFS of ours points to.
struct Machine {
    disk: Arc<Mutex<Disk>>,
    below: *mut sqlite3_vfs,
}

/// An open file, in memory that SQLite gave.
#[repr(C)]
struct OpenFile {
    methods: *const sqlite3_io_methods,
    /// Ours alone; freed when the file is closed.
    inner: *mut Inner,
}

struct Inner {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    generation: u64,
    /// The platform's file, which holds the locks. Its memory follows.
    below: *mut sqlite3_file,
    _memory: Box<[u64]>,
}

fn register(name: &str, disk: Arc<Mutex<Disk>>) {
    let name = CString::new(name).expect("the name holds no NUL");
    // SAFETY: a null name asks for the default VFS, which lives as long as the process.
    let below = unsafe { sqlite3_vfs_find(ptr::null()) };
    assert!(!below.is_null(), "SQLite has a default VFS");
    let machine = Box::leak(Box::new(Machine { disk, below }));
    // SAFETY: `below` points to a VFS, which is plain data.
    let mut vfs = unsafe { *below };
    vfs.szOsFile = c_int::try_from(size_of::<OpenFile>()).expect("the struct is small");
    vfs.zName = name.into_raw();
    vfs.pNext = ptr::null_mut();
    vfs.pAppData = ptr::from_mut(machine).cast();
    vfs.xOpen = Some(open);
    vfs.xDelete = Some(delete);
    vfs.xAccess = Some(access);
    let vfs = Box::leak(Box::new(vfs));
    // SAFETY: `vfs` and its name are never freed. The functions that are not ours take no notice of
    // the VFS they are called on.
    let code = unsafe { sqlite3_vfs_register(vfs, 0) };
    assert_eq!(code, SQLITE_OK, "SQLite takes the VFS");
}

/// # Safety
/// `vfs` is one of [`register`]'s.
unsafe fn machine<'a>(vfs: *mut sqlite3_vfs) -> &'a Machine {
    // SAFETY: `register` put it there and leaked it.
    unsafe { &*(*vfs).pAppData.cast::<Machine>() }
}

/// # Safety
/// `name` is a C string.
unsafe fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: as promised by the caller.
    let name = unsafe { CStr::from_ptr(name) };
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

/// # Safety
/// `file` was opened by [`open`] and not closed since.
unsafe fn inner<'a>(file: *mut sqlite3_file) -> &'a Inner {
    // SAFETY: `open` put it there.
    unsafe { &*(*file.cast::<OpenFile>()).inner }
}

impl Inner {
    fn is_alive(&self) -> bool {
        lock(&self.disk).is_alive(self.generation)
    }

    /// The methods of the file below.
    fn methods(&self) -> &sqlite3_io_methods {
        // SAFETY: the file below is open as long as this is, and so has methods.
        unsafe { &*(*self.below).pMethods }
    }
}

/// The code for what has no other result.
fn code<T>(result: Result<T, DiskError>) -> c_int {
    match result {
        Ok(_) => SQLITE_OK,
        Err(DiskError::Full) => SQLITE_FULL,
        Err(DiskError::NoPower) => SQLITE_IOERR,
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // 2: with shared memory, without mapped content.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(unlock_file),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

// Each function below is called by SQLite, with arguments as its documentation of `sqlite3_vfs` and
// `sqlite3_io_methods` promises them: files are ours and open, names are C strings, buffers have the
// lengths that are given. That is what makes each of them safe.

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: see above. The platform's file gets memory of the size that its VFS asks for, aligned
    // for any field, and a name that SQLite keeps until the file is closed.
    unsafe {
        (*file).pMethods = ptr::null();
        if name.is_null() {
            // Temporary files are kept in memory (`temp_store`).
            return SQLITE_CANTOPEN;
        }
        let machine = machine(vfs);
        let path = path(name);
        let Ok(generation) = lock(&machine.disk).open(path) else {
            return SQLITE_CANTOPEN;
        };
        let words = usize::try_from((*machine.below).szOsFile).unwrap_or(0) / size_of::<u64>() + 1;
        let mut memory = vec![0_u64; words].into_boxed_slice();
        let below: *mut sqlite3_file = memory.as_mut_ptr().cast();
        let opened = match (*machine.below).xOpen {
            Some(open) => open(machine.below, name, below, flags, out_flags),
            None => SQLITE_ERROR,
        };
        if opened != SQLITE_OK {
            lock(&machine.disk).close(generation);
            return opened;
        }
        let inner = Inner {
            disk: Arc::clone(&machine.disk),
            path: path.to_owned(),
            generation,
            below,
            _memory: memory,
        };
        *file.cast::<OpenFile>() = OpenFile {
            methods: &raw const METHODS,
            inner: Box::into_raw(Box::new(inner)),
        };
        SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let machine = machine(vfs);
        if lock(&machine.disk).delete(path(name)).is_err() {
            return SQLITE_IOERR;
        }
        match (*machine.below).xDelete {
            Some(delete) => delete(machine.below, name, sync),
            None => SQLITE_ERROR,
        }
    }
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let machine = machine(vfs);
        if flags == SQLITE_ACCESS_EXISTS
            && let Some(exists) = lock(&machine.disk).has_content(path(name))
        {
            *out = c_int::from(exists);
            return SQLITE_OK;
        }
        match (*machine.below).xAccess {
            Some(access) => access(machine.below, name, flags, out),
            None => SQLITE_ERROR,
        }
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above; `inner` came out of a box in `open`, and nobody uses it after this.
    unsafe {
        let inner = Box::from_raw((*file.cast::<OpenFile>()).inner);
        (*file).pMethods = ptr::null();
        lock(&inner.disk).close(inner.generation);
        match inner.methods().xClose {
            Some(close) => close(inner.below),
            None => SQLITE_ERROR,
        }
    }
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        let amount = usize::try_from(amount).unwrap_or(0);
        let buffer = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount);
        let done = lock(&inner.disk).read(&inner.path, inner.generation, at as usize, buffer);
        match done {
            Ok(done) if done == amount => SQLITE_OK,
            Ok(done) => {
                buffer[done..].fill(0);
                SQLITE_IOERR_SHORT_READ
            }
            Err(_) => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        let amount = usize::try_from(amount).unwrap_or(0);
        let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), amount);
        code(lock(&inner.disk).write(&inner.path, inner.generation, at as usize, bytes))
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    // SAFETY: see above.
    let inner = unsafe { inner(file) };
    code(lock(&inner.disk).truncate(&inner.path, inner.generation, length as usize))
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: see above.
    let inner = unsafe { inner(file) };
    code(lock(&inner.disk).sync(&inner.path, inner.generation))
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        let length = lock(&inner.disk).length(&inner.path, inner.generation);
        if let Ok(length) = &length {
            *out = *length as sqlite3_int64;
        }
        code(length)
    }
}

unsafe extern "C" fn lock_file(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xLock {
            Some(lock) if inner.is_alive() => lock(inner.below, level),
            _ => SQLITE_IOERR,
        }
    }
}

/// Also for the dead: their locks must not outlive them.
unsafe extern "C" fn unlock_file(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xUnlock {
            Some(unlock) => unlock(inner.below, level),
            None => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xCheckReservedLock {
            Some(check) if inner.is_alive() => check(inner.below, out),
            _ => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    if operation == SQLITE_FCNTL_SIZE_HINT {
        // The file below has no content to make room for.
        return SQLITE_OK;
    }
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xFileControl {
            Some(control) => control(inner.below, operation, argument),
            None => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        inner
            .methods()
            .xSectorSize
            .map_or(0, |size| size(inner.below))
    }
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        let characteristics = inner.methods().xDeviceCharacteristics;
        characteristics.map_or(0, |characteristics| characteristics(inner.below))
    }
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xShmMap {
            Some(map) if inner.is_alive() => map(inner.below, region, size, extend, out),
            _ => SQLITE_IOERR,
        }
    }
}

/// Unlocking also for the dead, as for files.
unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xShmLock {
            Some(lock) if flags & SQLITE_SHM_UNLOCK != 0 || inner.is_alive() => {
                lock(inner.below, offset, count, flags)
            }
            _ => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        if let Some(barrier) = inner.methods().xShmBarrier {
            barrier(inner.below);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let inner = inner(file);
        match inner.methods().xShmUnmap {
            Some(unmap) => unmap(inner.below, delete),
            None => SQLITE_OK,
        }
    }
}
