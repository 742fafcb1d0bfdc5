//! Files that are handed to hooks: in a directory that only we can enter, gone when their owner is.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Directories of ours start like this; those that nobody has locked any more are swept.
const PREFIX: &str = "tesserad-hooks-";
/// A new directory is lost only if another gateway's sweep comes in between; more often than this means something else.
const TRIES: usize = 8;

/// What the names of files that hooks write to start with. One that is written after its login was decided, and its file
/// removed, comes into being again: by these names it is known as nobody's.
pub(super) const WRITTEN: [&str; 5] = ["auth-control", "auth-pending", "auth-reason", "connect", "deferred"];

/// The numbers in the names of files: never used twice.
#[derive(Debug, Default)]
struct Names {
    next: u64,
    alive: HashSet<u64>,
}

/// A private directory for hook files; locked while it is in use, removed when dropped.
#[derive(Debug)]
pub struct HookDir {
    path: PathBuf,
    names: Mutex<Names>,
    /// None where the directory was made anew and another sweeps it right now.
    lock: Mutex<Option<Flock<File>>>,
}

impl HookDir {
    /// Makes the directory below `parent` (`tmp-dir`), and removes those that killed processes left there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(parent: &Path) -> io::Result<Arc<Self>> {
        sweep(parent);
        for _ in 0..TRIES {
            // Process ids repeat, in containers even at once: the name is random, and the lock tells who is alive.
            let path = parent.join(format!("{PREFIX}{}", random_name()?));
            DirBuilder::new().mode(0o700).create(&path)?;
            let lock = lock(&path);
            if lock.is_some() && path.exists() {
                return Ok(Arc::new(Self { path, names: Mutex::default(), lock: Mutex::new(lock) }));
            }
        }
        Err(io::Error::other("each new directory was taken away at once"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file with this content, readable by us only.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(self: &Arc<Self>, name: &str, content: &[u8]) -> io::Result<HookFile> {
        let number = self.names(|names| {
            let number = names.next;
            names.next += 1;
            names.alive.insert(number);
            number
        });
        let guard =
            HookFile { path: self.path.join(format!("{name}-{number}")), number, dir: Arc::clone(self) };
        let path = &guard.path;
        let open = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
        };
        let mut file = match open() {
            // Somebody cleaned up the temporary directory under us: logins must not fail for ever because of that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o700).create(&self.path)?;
                // The old lock must go, too: what holds it keeps the lost directory, and who watches that hears nothing.
                *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock(&self.path);
                open()?
            }
            other => other?,
        };
        file.write_all(content)?;
        Ok(guard)
    }

    /// Removes a file that a hook wrote too late: one of our names, whose owner is gone.
    pub(super) fn remove_orphan(&self, name: &OsStr) {
        let parts = name.to_str().and_then(|name| name.rsplit_once('-'));
        let Some((prefix, Ok(number))) = parts.map(|(prefix, number)| (prefix, number.parse::<u64>())) else {
            return;
        };
        let orphan = self.names(|names| number < names.next && !names.alive.contains(&number));
        if orphan && WRITTEN.contains(&prefix) {
            remove(&self.path.join(name));
        }
    }

    fn names<T>(&self, act: impl FnOnce(&mut Names) -> T) -> T {
        act(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for HookDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// One file; removed when dropped.
#[derive(Debug)]
pub struct HookFile {
    path: PathBuf,
    number: u64,
    dir: Arc<HookDir>,
}

impl HookFile {
    /// Its path, for the hook.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes are in it now; 0 if it is not there.
    pub(super) fn length(&self) -> u64 {
        std::fs::symlink_metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// What is in it now, at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file any more, or is larger.
    pub fn read(&self, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let content = self.head(limit + 1)?;
        if content.len() > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
        }
        Ok(content)
    }

    /// The first `limit` bytes of what is in it now, or all.
    ///
    /// # Errors
    /// When it cannot be read, or is no regular file any more.
    pub fn head(&self, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        // A hook may have put a link in its place: follow nothing, and never wait on a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // All room at once: growing would leave copies of a token behind.
        let mut content = Zeroizing::new(Vec::with_capacity(limit));
        file.take(limit as u64).read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Drop for HookFile {
    fn drop(&mut self) {
        remove(&self.path);
        self.dir.names(|names| names.alive.remove(&self.number));
    }
}

/// Removes a file, and whatever a hook has put in its place. Links are not followed.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() == io::ErrorKind::IsADirectory
    {
        let _ = std::fs::remove_dir_all(path);
    }
}

/// Removes directories of ours that no living process has locked.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && std::fs::symlink_metadata(&path)
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw());
        if ours && let Some(_lock) = lock(&path) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// The lock of a directory; `None` if another has it, or the directory is gone.
fn lock(path: &Path) -> Option<Flock<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_bounded_and_gone_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let stale = parent.path().join(format!("{PREFIX}4194305"));
        std::fs::create_dir(&stale).unwrap();
        std::fs::write(stale.join("credentials-0"), "x").unwrap();
        let (other, linked) = (parent.path().join("other"), parent.path().join("linked"));
        std::fs::create_dir(&other).unwrap();
        std::fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(&linked, parent.path().join(format!("{PREFIX}link"))).unwrap();
        let living = HookDir::create(parent.path()).unwrap();
        let dir = HookDir::create(parent.path()).unwrap();
        assert!(!stale.exists(), "swept");
        assert!(living.path().exists() && other.exists() && linked.exists(), "left alone");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = dir.file("connect", b"push").unwrap();
        assert_eq!((mode(dir.path()), mode(file.path())), (0o700, 0o600));
        assert_eq!(*file.read(4).unwrap(), *b"push");
        assert_eq!(*file.head(2).unwrap(), *b"pu");
        assert_eq!(file.read(3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let path = file.path().to_owned();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(file.read(1 << 20).is_err(), "links are not followed");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(file.read(10).is_err(), "pipes are not waited for");
        drop(file);
        assert!(!path.exists());
        let root = dir.path().to_owned();
        drop(dir);
        assert!(!root.exists());
    }

    #[test]
    fn files_that_come_too_late_are_nobodys() {
        let parent = tempfile::tempdir().unwrap();
        let dir = HookDir::create(parent.path()).unwrap();
        let (living, gone) = (dir.file("deferred", b"").unwrap(), dir.file("deferred", b"").unwrap());
        let credentials = dir.file("credentials", b"").unwrap();
        let late = gone.path().to_owned();
        let own = credentials.path().to_owned();
        drop((gone, credentials));
        let others: Vec<PathBuf> = ["deferred-99", "deferred-1.new", "deferred-x", "other-1", "deferred"]
            .map(|name| dir.path().join(name))
            .into();
        for path in others.iter().chain([&late, &own]) {
            std::fs::write(path, "1").unwrap();
        }
        for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
            dir.remove_orphan(&entry.file_name());
        }
        assert!(!late.exists());
        assert!(living.path().exists() && own.exists() && others.iter().all(|path| path.exists()));
    }
}
