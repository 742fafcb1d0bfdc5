//! The account file on disk: read, watched, and replaced as a whole.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tessera_proto::Instant;
use zeroize::Zeroizing;

use super::file::{self, LineError, MAX_FILE, MAX_USERS, User, Users};
use super::hash::Cost;

/// The file is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lines that an error text names; the first ones are enough to begin with.
const LINES_IN_TEXT: usize = 5;

/// Why accounts cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The operating system said no.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Not a regular file.
    #[error("{} is no regular file", path.display())]
    NotRegular {
        /// Which.
        path: PathBuf,
    },
    /// Others could read the secrets, or change who may log in.
    #[error("{} has mode {mode:04o}: nobody else may read it, and its group must not write it (chmod 600)", path.display())]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Larger than any account file.
    #[error("{} is larger than {MAX_FILE} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// There were users, and now there is not even a comment: somebody is writing it, or the disk was full.
    #[error("{} is empty, and had {users} users: they stay (write a comment into it to be rid of them)", path.display())]
    Emptied {
        /// Which file.
        path: PathBuf,
        /// How many it had.
        users: usize,
    },
    /// Lines that cannot be used.
    #[error("{}", lines_text(path, errors))]
    Lines {
        /// Of which file.
        path: PathBuf,
        /// In their order.
        errors: Vec<LineError>,
    },
    /// Not a name, password or setting that can be used.
    #[error("{0}")]
    Invalid(String),
    /// There is such a user already.
    #[error("user {0:?} is there already")]
    Exists(String),
    /// There is no such user.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// No more users.
    #[error("there are {MAX_USERS} users already")]
    Full,
    /// Random numbers, memory or threads are missing.
    #[error("{0}")]
    System(String),
}

/// What a look at the file brought.
#[derive(Debug)]
pub enum Refresh {
    /// Looked at less than a second ago.
    NotDue,
    /// As it was, or being written at this moment.
    Unchanged,
    /// New accounts are in force. Users whose lines have a problem cannot log in.
    Reloaded {
        /// How many there are now.
        users: usize,
        /// Lines that cannot be used.
        problems: Vec<LineError>,
    },
    /// The file changed and cannot be used: the accounts are what they were. Said once for each change.
    Kept(AccountsError),
}

/// What tells one version of the file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    /// Also tells when permissions were mended.
    changed: (i64, i64),
}

impl Signature {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The file and its users.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// What an attempt costs when there are no users.
    cost: Cost,
    users: RwLock<Arc<Users>>,
    /// Held while the file is read or changed.
    disk: Mutex<Disk>,
}

#[derive(Debug)]
struct Disk {
    seen: Option<Signature>,
    next_look: Option<Instant>,
}

/// A file that was read.
struct Read {
    content: Zeroizing<Vec<u8>>,
    meta: Metadata,
    /// It did not change meanwhile.
    settled: bool,
}

impl Store {
    /// Reads the file; a line that cannot be used is an error.
    pub(super) fn open(path: &Path, cost: Cost) -> Result<Self, AccountsError> {
        let read = read(path)?;
        let (users, errors) = file::parse(&read.content);
        if !errors.is_empty() {
            return Err(AccountsError::Lines { path: path.to_owned(), errors });
        }
        let users = Users::new(users, cost).map_err(AccountsError::System)?;
        let disk = Disk { seen: Some(Signature::of(&read.meta)), next_look: None };
        Ok(Self { path: path.to_owned(), cost, users: RwLock::new(Arc::new(users)), disk: Mutex::new(disk) })
    }

    pub(super) fn users(&self) -> Arc<Users> {
        Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks whether the file changed, at most once a second.
    pub(super) fn refresh(&self, now: Instant) -> Refresh {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.next_look.is_some_and(|next| now < next) {
            return Refresh::NotDue;
        }
        disk.next_look = Some(now + LOOK_EVERY);
        let seen = fs::metadata(&self.path).ok().map(|meta| Signature::of(&meta));
        if seen == disk.seen {
            return Refresh::Unchanged;
        }
        let read = match read(&self.path) {
            Ok(read) if !read.settled => return Refresh::Unchanged,
            Ok(read) => read,
            Err(error) => {
                disk.seen = seen;
                return Refresh::Kept(error);
            }
        };
        disk.seen = Some(Signature::of(&read.meta));
        match self.take_foreign(&read.content) {
            Ok(problems) => Refresh::Reloaded { users: self.users().len(), problems },
            Err(error) => Refresh::Kept(error),
        }
    }

    /// Changes one user: `change` gets the user as the file has it now, and gives what it shall be. The file is replaced, and
    /// the change is in force, when this returns without an error.
    pub(super) fn change(
        &self,
        name: &str,
        change: impl FnOnce(Option<&User>) -> Result<Option<User>, AccountsError>,
    ) -> Result<(), AccountsError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        // What was written by hand meanwhile is not lost.
        let read = read(&self.path)?;
        let (users, before) = file::parse(&read.content);
        let old = users.iter().find(|user| user.name == name);
        let new = change(old)?;
        if old.is_none() && new.is_some() && users.len() >= MAX_USERS {
            return Err(AccountsError::Full);
        }
        let line = new.as_ref().map(file::render);
        let mut content = file::edit(&read.content, name, line.as_deref().map(String::as_str));
        let (users, errors) = file::parse(&content);
        if let Some(error) = errors.into_iter().find(|error| !before.iter().any(|b| b.reason == error.reason))
        {
            return Err(AccountsError::Invalid(error.reason));
        }
        if content.is_empty() {
            // The last user: not to be taken for a file that was cut off.
            content.extend_from_slice(b"# no users\n");
        }
        let meta = self.replace(&content, &read.meta)?;
        disk.seen = Some(Signature::of(&meta));
        self.put_in_force(users)
    }

    /// Puts the users of a content in force that somebody else wrote, unless it looks like an accident.
    fn take_foreign(&self, content: &[u8]) -> Result<Vec<LineError>, AccountsError> {
        let before = self.users().len();
        if content.trim_ascii().is_empty() && before > 0 {
            return Err(AccountsError::Emptied { path: self.path.clone(), users: before });
        }
        let (users, errors) = file::parse(content);
        if users.is_empty() && !errors.is_empty() {
            return Err(AccountsError::Lines { path: self.path.clone(), errors });
        }
        self.put_in_force(users)?;
        Ok(errors)
    }

    fn put_in_force(&self, users: Vec<User>) -> Result<(), AccountsError> {
        let users = Users::new(users, self.cost).map_err(AccountsError::System)?;
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(users);
        Ok(())
    }

    /// Replaces the file, with its mode and owner: after a crash it is the old or the new one.
    fn replace(&self, content: &[u8], old: &Metadata) -> Result<Metadata, AccountsError> {
        // The file behind a link is replaced, not the link.
        let path = fs::canonicalize(&self.path).map_err(failed("find", &self.path))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        // One that a crash left behind; `create_new` refuses to follow whatever else is put there.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            _ => {}
        }
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            let new = file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
            file.write_all(content)?;
            file.sync_all()?;
            Ok(file)
        };
        let written = write().map_err(failed("write", &temporary));
        let replaced = written.and_then(|file| {
            fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
            Ok(file)
        });
        let file = replaced.inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        File::open(directory).and_then(|dir| dir.sync_all()).map_err(failed("sync", directory))?;
        // After the rename, which changes the time of the last change.
        file.metadata().map_err(failed("look at", &path))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AccountsError {
    let path = path.to_owned();
    move |error| AccountsError::Io { action, path, error }
}

fn read(path: &Path) -> Result<Read, AccountsError> {
    // A pipe in its place must not stop us.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = open.map_err(failed("read", path))?;
    let meta = file.metadata().map_err(failed("look at", path))?;
    let own = || path.to_owned();
    if !meta.is_file() {
        return Err(AccountsError::NotRegular { path: own() });
    }
    // The group may read: the administrators' file, the gateway's group.
    if meta.mode() & 0o027 != 0 {
        return Err(AccountsError::Permissions { path: own(), mode: meta.mode() & 0o7777 });
    }
    let size = usize::try_from(meta.size()).ok().filter(|size| *size <= MAX_FILE);
    let size = size.ok_or_else(|| AccountsError::TooLarge { path: own() })?;
    // All room at once: growing would leave copies of the secrets behind. One byte more tells whether it grew.
    let mut content = Zeroizing::new(Vec::with_capacity(size + 1));
    (&file).take(size as u64 + 1).read_to_end(&mut content).map_err(failed("read", path))?;
    let after = file.metadata().map_err(failed("look at", path))?;
    let settled = content.len() == size && Signature::of(&after) == Signature::of(&meta);
    Ok(Read { content, meta, settled })
}

fn lines_text(path: &Path, errors: &[LineError]) -> String {
    let mut text: Vec<String> = errors.iter().take(LINES_IN_TEXT).map(|error| error.in_file(path)).collect();
    if errors.len() > LINES_IN_TEXT {
        text.push(format!("and {} more", errors.len() - LINES_IN_TEXT));
    }
    text.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn at(seconds: u64) -> Instant {
        Instant::from_epoch(Duration::from_secs(seconds))
    }

    fn put(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn store(text: &str) -> (tempfile::TempDir, PathBuf, Result<Store, AccountsError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts");
        put(&path, text);
        let store = Store::open(&path, Cost::WEAKEST);
        (dir, path, store)
    }

    fn names(store: &Store) -> Vec<String> {
        store.users().sorted().into_iter().map(|user| user.name.clone()).collect()
    }

    #[test]
    fn at_start_a_bad_line_is_an_error() {
        let (_dir, path, store) = store(&format!("alice:{HASH}\nbob:secret\n"));
        let text = store.unwrap_err().to_string();
        assert!(text.starts_with(&format!("{}:2:5: ", path.display())), "{text}");
        assert!(matches!(Store::open(&path.join("x"), Cost::WEAKEST), Err(AccountsError::Io { .. })));
        put(&path, "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Store::open(&path, Cost::WEAKEST),
            Err(AccountsError::Permissions { mode: 0o644, .. })
        ));
        let directory = path.parent().unwrap();
        assert!(matches!(Store::open(directory, Cost::WEAKEST), Err(AccountsError::NotRegular { .. })));
    }

    #[test]
    fn a_change_is_seen_and_a_broken_file_changes_nothing() {
        let (_dir, path, store) = store(&format!("alice:{HASH}\n"));
        let store = store.unwrap();
        assert!(matches!(store.refresh(at(1)), Refresh::Unchanged));
        put(&path, &format!("alice:{HASH}\nbob:{HASH}\n"));
        assert!(matches!(store.refresh(at(1)), Refresh::NotDue));
        assert!(matches!(store.refresh(at(2)), Refresh::Reloaded { users: 2, .. }));
        put(&path, &format!("alice:{HASH}\nbob:oops\ncarol:{HASH}\n"));
        let Refresh::Reloaded { users: 2, problems } = store.refresh(at(3)) else { panic!() };
        assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 2, 5));
        assert_eq!(names(&store), ["alice", "carol"]);
        let mut now = 4;
        for broken in ["", "\n \n", "nonsense\n", "\0\0\0\0\0"] {
            put(&path, broken);
            assert!(matches!(store.refresh(at(now)), Refresh::Kept(_)), "{broken:?}");
            assert!(matches!(store.refresh(at(now + 1)), Refresh::Unchanged), "said once");
            now += 2;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(store.refresh(at(now)), Refresh::Kept(AccountsError::Permissions { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(store.refresh(at(now + 1)), Refresh::Kept(AccountsError::Io { .. })));
        assert!(matches!(store.refresh(at(now + 2)), Refresh::Unchanged));
        assert_eq!(names(&store), ["alice", "carol"]);
        put(&path, "# nobody\n");
        assert!(matches!(store.refresh(at(now + 3)), Refresh::Reloaded { users: 0, .. }));
    }

    #[test]
    fn changes_keep_what_people_wrote() {
        let (dir, path, store) = store(&format!("# ours\nalice:{HASH}\n"));
        let store = store.unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.path().join("accounts.tmp"), "left by a crash").unwrap();
        // Written by hand, and not seen yet.
        fs::write(&path, format!("# ours\nalice:{HASH}\nbroken line\nbob:{HASH}\n")).unwrap();
        let store = Store { path: link.clone(), ..store };
        store.change("bob", |bob| Ok(bob.cloned().map(|bob| User { disabled: true, ..bob }))).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# ours\nalice:{HASH}\nbroken line\nbob:{HASH}::disabled\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!dir.path().join("accounts.tmp").exists());
        assert!(store.users().find("bob").unwrap().disabled);
        assert!(matches!(store.refresh(at(1)), Refresh::Unchanged), "our own change is no news");
        for name in ["alice", "bob"] {
            store.change(name, |user| Ok(user.filter(|_| false).cloned())).unwrap();
        }
        assert_eq!(store.users().len(), 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "# ours\nbroken line\n");
    }

    #[test]
    fn the_last_user_can_go() {
        let (_dir, path, store) = store(&format!("alice:{HASH}\n"));
        let store = store.unwrap();
        store.change("alice", |_| Ok(None)).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), store.users().len()), ("# no users\n", 0));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let (dir, path, store) = store(&format!("alice:{HASH}\n"));
        let store = store.unwrap();
        // A directory in the place of the temporary file cannot be removed as a file: no write is possible.
        fs::create_dir(dir.path().join("accounts.tmp")).unwrap();
        assert!(matches!(store.change("alice", |_| Ok(None)), Err(AccountsError::Io { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("alice:{HASH}\n"));
        assert_eq!(names(&store), ["alice"]);
    }
}
