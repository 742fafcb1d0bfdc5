//! What the journal does to the file system, as few operations as there can be, so that tests can make each of them fail.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// The journal itself.
const JOURNAL: &str = "journal";

/// Its successor while it is written.
const NEXT: &str = "journal.new";

/// A journal that could not be used, kept for whoever wants to know why.
const SET_ASIDE: &str = "journal.damaged";

/// Whoever holds its lock has the directory for itself.
const LOCK: &str = "lock";

/// One of two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The journal.
    Journal,
    /// What takes its place.
    Next,
}

/// The writer's view of the disk. Every operation may block and fail.
pub(super) trait Disk: Send + fmt::Debug + 'static {
    /// Appends some of `bytes`; how many.
    ///
    /// # Errors
    /// As write(2). Some bytes may have been written all the same.
    fn write(&mut self, which: Which, bytes: &[u8]) -> io::Result<usize>;

    /// Sees to it that what was written survives a loss of power.
    ///
    /// # Errors
    /// As fdatasync(2). What was written since the last time may be lost then, whatever later calls say.
    fn sync(&mut self, which: Which) -> io::Result<()>;

    /// Cuts the journal.
    ///
    /// # Errors
    /// As ftruncate(2).
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Makes an empty [`Which::Next`], in place of one that is there.
    ///
    /// # Errors
    /// As open(2).
    fn create_next(&mut self) -> io::Result<()>;

    /// Puts [`Which::Next`] in the place of the journal.
    ///
    /// # Errors
    /// As rename(2); then both are as they were.
    fn adopt_next(&mut self) -> io::Result<()>;

    /// Sees to it that the last [`Self::adopt_next`] survives a loss of power.
    ///
    /// # Errors
    /// As fsync(2).
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// A directory of an operator's.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Open while this gateway holds the lock. `None` on a file system that is read-only and where there is no lock
    /// file: then it is taken before the first change.
    lock: Option<File>,
    journal: Option<File>,
    next: Option<File>,
}

impl Directory {
    /// Takes the directory, made if it is missing, and opens the journal if there is one. What goes wrong because the
    /// disk is full or read-only comes back beside it; the writer tries again later.
    ///
    /// # Errors
    /// [`StoreError`] for whatever an operator must put right.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<io::Error>), StoreError> {
        make(path)?;
        let mut directory = Self { path: path.to_owned(), lock: None, journal: None, next: None };
        let mut trouble = None;
        match directory.take_lock() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StoreError::InUse { path: path.to_owned() });
            }
            Err(error) if is_passing(&error) => trouble = Some(error),
            Err(error) => return Err(failed("lock", &path.join(LOCK))(error)),
        }
        let journal = path.join(JOURNAL);
        let opened = open_own(OpenOptions::new().read(true).append(true), &journal);
        match opened {
            Ok(file) => directory.journal = Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_passing(&error) => {
                trouble = Some(error);
                // Read it at least.
                let file = open_own(OpenOptions::new().read(true), &journal);
                directory.journal = Some(file.map_err(failed("open", &journal))?);
            }
            Err(error) => return Err(failed("open", &journal)(error)),
        }
        Ok((directory, trouble))
    }

    /// The journal, to be read from its start.
    pub(super) const fn journal(&self) -> Option<&File> {
        self.journal.as_ref()
    }

    /// Where the journal is.
    pub(super) fn journal_path(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Gives a journal that cannot be used another name, the first of a hundred that is free.
    ///
    /// # Errors
    /// As rename(2), and when no name is free: nothing is ever overwritten.
    pub(super) fn set_aside(&mut self) -> io::Result<PathBuf> {
        self.journal = None;
        let names = (0..100).map(|number| self.path.join(format!("{SET_ASIDE}.{number}")));
        let free = names.into_iter().find(|path| fs::symlink_metadata(path).is_err());
        let free = free.ok_or_else(|| io::Error::other("there are a hundred damaged journals already"))?;
        fs::rename(self.path.join(JOURNAL), &free)?;
        Ok(free)
    }

    fn take_lock(&mut self) -> io::Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.path.join(LOCK);
        let file = match open_own(OpenOptions::new().write(true).create(true).mode(0o600), &path) {
            // A lock needs no writing.
            Err(error) if is_passing(&error) && path.exists() => {
                open_own(OpenOptions::new().read(true), &path)
            }
            opened => opened,
        }?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(error) => error,
        })?;
        self.lock = Some(file);
        Ok(())
    }

    fn file(&self, which: Which) -> io::Result<&File> {
        let file = match which {
            Which::Journal => &self.journal,
            Which::Next => &self.next,
        };
        file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Directory {
    /// Gives the lock back even while a child that is just being started holds a copy of the file.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            // Closing it is the other way, and follows.
            let _ = lock.unlock();
        }
    }
}

impl Disk for Directory {
    fn write(&mut self, which: Which, bytes: &[u8]) -> io::Result<usize> {
        self.file(which)?.write(bytes)
    }

    fn sync(&mut self, which: Which) -> io::Result<()> {
        self.file(which)?.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file(Which::Journal)?.set_len(length)
    }

    fn create_next(&mut self) -> io::Result<()> {
        self.take_lock()?;
        self.next = None;
        let path = self.path.join(NEXT);
        // One that a crash left behind; `create_new` refuses to follow whatever else is put there.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        self.next = Some(file);
        Ok(())
    }

    fn adopt_next(&mut self) -> io::Result<()> {
        fs::rename(self.path.join(NEXT), self.path.join(JOURNAL))?;
        self.journal = self.next.take();
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Whether an error may pass by itself: the disk is full, read-only or failing.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    ) || error.raw_os_error() == Some(libc::EIO)
}

/// Makes the directory, or sees that it is fit: a real one that nobody else can write to.
fn make(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            return Err(failed("create", path)(error));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if !metadata.is_dir() {
        return Err(StoreError::WrongKind { path: path.to_owned(), wanted: "a directory" });
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(StoreError::Open { path: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    Ok(())
}

/// Opens a regular file and no link, and closes it to others if somebody has opened it to them.
fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| {
        if error.raw_os_error() == Some(libc::ELOOP) {
            StoreError::WrongKind { path, wanted: "a regular file" }
        } else {
            StoreError::Io { action, path, error }
        }
    }
}
