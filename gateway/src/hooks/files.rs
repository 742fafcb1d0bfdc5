//! Files that are handed to hooks: in a directory that only we can enter, gone when their owner is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Directories of ours start like this; those of dead processes are swept.
const PREFIX: &str = "tesserad-hooks-";

/// A private directory for hook files; removed when dropped.
#[derive(Debug)]
pub struct HookDir {
    path: PathBuf,
    next: AtomicU64,
}

impl HookDir {
    /// Makes the directory below `parent` (`tmp-dir`), and removes those that killed processes left there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(parent: &Path) -> io::Result<Arc<Self>> {
        sweep(parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        // A leftover of an earlier process with our id is not ours to trust.
        let _ = std::fs::remove_dir_all(&path);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Arc::new(Self {
            path,
            next: AtomicU64::new(0),
        }))
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
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{name}-{number}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let guard = HookFile {
            path,
            _dir: Arc::clone(self),
        };
        file.write_all(content)?;
        Ok(guard)
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
    _dir: Arc<HookDir>,
}

impl HookFile {
    /// Its path, for the hook.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it now, at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file any more, or is larger.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        // A hook may have put a link in its place: follow nothing, and never wait on a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {limit} bytes"),
            ));
        }
        Ok(content)
    }
}

impl Drop for HookFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes directories whose process is gone.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = pid
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
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
        let dir = HookDir::create(parent.path()).unwrap();
        assert!(!stale.exists(), "swept");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = dir.file("connect", b"push").unwrap();
        assert_eq!((mode(dir.path()), mode(file.path())), (0o700, 0o600));
        assert_eq!(file.read(4).unwrap(), b"push");
        assert_eq!(file.read(3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let path = file.path().to_owned();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(file.read(1 << 20).is_err(), "links are not followed");
        drop(file);
        assert!(!path.exists());
        let root = dir.path().to_owned();
        drop(dir);
        assert!(!root.exists());
    }
}
