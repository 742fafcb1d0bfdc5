//! `ifconfig-pool-persist`: which client had which address, in a file that outlives the gateway.
//!
//! One line per client, `common name,IPv4[,IPv6]`. The file is replaced as a whole (temporary file, fsync, rename), so
//! that a crash leaves the old or the new one. Lines that cannot be used are reported and written back unchanged:
//! nothing that an operator wrote is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pool::{AddressPool, Hint, MAX_POOL_SIZE};

/// Largest file that is read: [`MAX_POOL_SIZE`] lines of twice the longest name and address.
const MAX_FILE_BYTES: u64 = MAX_POOL_SIZE as u64 * 256;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
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
    /// It cannot be a pool file.
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
}

/// A line that was not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedLine {
    /// From 1.
    pub number: usize,
    /// For the log.
    pub reason: String,
}

/// What [`Persist::save_if_due`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The time has not come, nothing changed, or the file is read-only.
    NotDue,
    /// The file was replaced.
    Written,
}

/// The file and when to write it.
#[derive(Debug)]
pub struct Persist {
    path: PathBuf,
    /// `None`: the file is read only.
    interval: Option<Duration>,
    next: Instant,
    /// The pool's hint generation that the file holds.
    saved: u64,
    /// Unusable lines, as they were read.
    kept: Vec<Vec<u8>>,
}

/// The next content of the file. Made under the pool's lock, written without it.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    text: Vec<u8>,
    generation: u64,
}

impl Persist {
    /// Reads the file into `pool`; a file that does not exist is an empty one. `interval` is the time between two
    /// writes; 0 means that the file is never written.
    ///
    /// # Errors
    /// [`PersistError`] when the file is there and cannot be read, or is too large. A line that cannot be used is no
    /// error; it is in the list that comes back, and stays in the file.
    pub fn load(
        path: &Path,
        interval: Duration,
        now: Instant,
        pool: &mut AddressPool,
    ) -> Result<(Self, Vec<RejectedLine>), PersistError> {
        let mut rejected = Vec::new();
        let mut kept = Vec::new();
        for (number, line) in (1..).zip(read(path)?.split(|byte| *byte == b'\n')) {
            let parsed =
                std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned()).and_then(Self::parse_line);
            match parsed.map(|hint| hint.map(|hint| pool.remember(&hint))) {
                Ok(Some(Ok(()))) => continue,
                Ok(None) if line.trim_ascii().is_empty() => continue,
                Ok(None) => {}
                Ok(Some(Err(refused))) => rejected.push(RejectedLine { number, reason: refused.to_string() }),
                Err(reason) => rejected.push(RejectedLine { number, reason }),
            }
            kept.push(line.to_owned());
        }
        let persist = Self {
            path: path.to_owned(),
            interval: (!interval.is_zero()).then_some(interval),
            next: now + interval,
            saved: pool.hint_generation(),
            kept,
        };
        Ok((persist, rejected))
    }

    /// One line: `Ok(None)` for an empty one or a comment (`#`, `;`).
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse_line(line: &str) -> Result<Option<Hint>, String> {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Ok(None);
        }
        let mut fields = line.split(',');
        let (name, v4, v6) = (fields.next(), fields.next(), fields.next());
        if fields.next().is_some() {
            return Err("more than three fields".to_owned());
        }
        let common_name = name.filter(|name| is_writable(name)).ok_or("no usable common name")?.to_owned();
        let v4 = address::<Ipv4Addr>(v4)?;
        let v6 = address::<Ipv6Addr>(v6)?;
        if v4.is_none() && v6.is_none() {
            return Err("no address".to_owned());
        }
        Ok(Some(Hint { common_name, v4, v6 }))
    }

    /// The whole content of the file. A name with a comma or a control character cannot be written in this format and
    /// is left out; such a client is remembered only while the gateway runs.
    #[must_use]
    pub fn render(&self, pool: &AddressPool) -> Vec<u8> {
        let mut text = String::new();
        for hint in pool.hints().filter(|hint| is_writable(&hint.common_name)) {
            text.push_str(&hint.common_name);
            text.push(',');
            if let Some(v4) = hint.v4 {
                text.push_str(&v4.to_string());
            }
            if let Some(v6) = hint.v6 {
                text.push(',');
                text.push_str(&v6.to_string());
            }
            text.push('\n');
        }
        let mut text = text.into_bytes();
        for line in &self.kept {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text
    }

    /// The content to write when the interval is over and something changed; the next interval starts then. To write
    /// without holding the pool's lock, call [`Snapshot::write`] afterwards and [`Self::confirm`] when it succeeded.
    pub fn snapshot_if_due(&mut self, now: Instant, pool: &AddressPool) -> Option<Snapshot> {
        let interval = self.interval?;
        if now < self.next {
            return None;
        }
        self.next = now + interval;
        self.snapshot(pool)
    }

    /// The content to write when something changed, at whatever time: at the stop of the gateway. `None` for a
    /// read-only file.
    #[must_use]
    pub fn snapshot(&self, pool: &AddressPool) -> Option<Snapshot> {
        if self.interval.is_none() || self.saved == pool.hint_generation() {
            return None;
        }
        let (path, text) = (self.path.clone(), self.render(pool));
        Some(Snapshot { path, text, generation: pool.hint_generation() })
    }

    /// Notes that `snapshot` is on disk. One that is not confirmed is due again after the interval.
    pub fn confirm(&mut self, snapshot: &Snapshot) {
        self.saved = self.saved.max(snapshot.generation);
    }

    /// All of it in one call, for a caller that may block on the disk while it holds the pool.
    ///
    /// # Errors
    /// [`PersistError`] when the file could not be replaced; the old one is untouched, and the next try is after the
    /// interval.
    pub fn save_if_due(&mut self, now: Instant, pool: &AddressPool) -> Result<Saved, PersistError> {
        let Some(snapshot) = self.snapshot_if_due(now, pool) else {
            return Ok(Saved::NotDue);
        };
        snapshot.write()?;
        self.confirm(&snapshot);
        Ok(Saved::Written)
    }
}

impl Snapshot {
    /// Replaces the file. Blocks on the disk.
    ///
    /// # Errors
    /// [`PersistError`]; the old file is untouched.
    pub fn write(&self) -> Result<(), PersistError> {
        let file_name = self.path.file_name().unwrap_or_default();
        let mut temporary = self.path.clone();
        temporary.set_file_name({
            let mut name = file_name.to_owned();
            name.push(".tmp");
            name
        });
        let failed = |action, path: &Path, error| PersistError::Io { action, path: path.to_owned(), error };
        // One that a crash left behind; `create_new` below refuses to follow whatever else is put there.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary, error));
            }
            _ => {}
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&self.text).and_then(|()| file.sync_all()));
        written.map_err(|error| failed("write", &temporary, error))?;
        fs::rename(&temporary, &self.path).map_err(|error| failed("replace", &self.path, error))?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory).and_then(|dir| dir.sync_all()).map_err(|error| failed("sync", directory, error))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PersistError> {
    let failed = |error| PersistError::Io { action: "read", path: path.to_owned(), error };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(PersistError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn address<A: std::str::FromStr>(field: Option<&str>) -> Result<Option<A>, String> {
    match field.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => {
            text.parse().map(Some).map_err(|_| format!("{text:?} is not an address of the right family"))
        }
    }
}

/// Whether the format can hold `name` so that it reads back the same.
fn is_writable(name: &str) -> bool {
    !name.is_empty()
        && name.trim() == name
        && !name.starts_with(['#', ';'])
        && !name.contains(|c: char| c == ',' || c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use tessera_ebpf_common::PeerIdLayout;

    use super::*;
    use crate::lease::LeaseRequest;

    const INTERVAL: Duration = Duration::from_secs(600);

    fn v4(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 8, 0, last)
    }

    fn pool() -> AddressPool {
        let base = "fd00::1000".parse().unwrap();
        AddressPool::new(Some((v4(2), v4(9))), Some((base, 64))).unwrap()
    }

    fn lease_of(pool: &mut AddressPool, name: &str) -> Option<Ipv4Addr> {
        let request = LeaseRequest { common_name: Some(name), ..LeaseRequest::default() };
        let lease = pool.acquire(request, PeerIdLayout::new(1).unwrap()).unwrap();
        let address = lease.v4();
        pool.release(lease);
        address
    }

    #[test]
    fn clients_find_their_addresses_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipp.txt");
        let start = crate::clock::now();
        let mut before = pool();
        let (mut persist, rejected) = Persist::load(&path, INTERVAL, start, &mut before).unwrap();
        assert_eq!(rejected, []);
        assert!(!path.exists());
        assert_eq!(lease_of(&mut before, "alice"), Some(v4(2)));
        assert_eq!(lease_of(&mut before, "bob example"), Some(v4(3)));
        let just_before = start + INTERVAL - Duration::from_millis(1);
        assert_eq!(persist.save_if_due(just_before, &before).unwrap(), Saved::NotDue);
        assert_eq!(persist.save_if_due(start + INTERVAL, &before).unwrap(), Saved::Written);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "alice,10.8.0.2,fd00::1000\nbob example,10.8.0.3,fd00::1001\n");
        assert_eq!(
            persist.save_if_due(start + 3 * INTERVAL, &before).unwrap(),
            Saved::NotDue,
            "nothing changed"
        );

        let mut after = pool();
        let (_, rejected) = Persist::load(&path, INTERVAL, start, &mut after).unwrap();
        assert_eq!(rejected, []);
        assert_eq!(lease_of(&mut after, "carol"), Some(v4(4)));
        assert_eq!(lease_of(&mut after, "bob example"), Some(v4(3)));
        assert_eq!(lease_of(&mut after, "alice"), Some(v4(2)));
    }

    #[test]
    fn unusable_lines_are_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipp.txt");
        let lines: [&[u8]; 11] = [
            b"# ours",
            b"alice,10.8.0.5",
            b"bob,10.8.0.6,",
            b"carol,,fd00::1005\r",
            b"mallory,10.8.0.5",
            b"alice,10.8.0.9",
            b"dave,10.9.0.1",
            b"erin,nonsense",
            b"",
            b",10.8.0.4",
            b"fr\xffd,10.8.0.4",
        ];
        fs::write(&path, lines.join(&b'\n')).unwrap();
        let start = crate::clock::now();
        let mut pool = pool();
        let (mut persist, rejected) = Persist::load(&path, INTERVAL, start, &mut pool).unwrap();
        assert_eq!(rejected.iter().map(|line| line.number).collect::<Vec<_>>(), [5, 6, 7, 8, 10, 11]);
        assert!(rejected[3].reason.contains("nonsense"), "{rejected:?}");
        assert_eq!(lease_of(&mut pool, "alice"), Some(v4(5)));
        assert_eq!(lease_of(&mut pool, "carol"), Some(v4(7)));
        assert_eq!(lease_of(&mut pool, "new"), Some(v4(2)));
        persist.save_if_due(start + INTERVAL, &pool).unwrap();
        let expected: &[u8] = b"new,10.8.0.2,fd00::1000\nalice,10.8.0.5,fd00::1003\nbob,10.8.0.6,fd00::1004\n\
            carol,10.8.0.7,fd00::1005\n# ours\nmallory,10.8.0.5\nalice,10.8.0.9\ndave,10.9.0.1\nerin,nonsense\n\
            ,10.8.0.4\nfr\xffd,10.8.0.4\n";
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn zero_seconds_is_read_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipp.txt");
        let start = crate::clock::now();
        let mut pool = pool();
        let (mut persist, _) = Persist::load(&path, Duration::ZERO, start, &mut pool).unwrap();
        lease_of(&mut pool, "alice");
        assert_eq!(persist.save_if_due(start + INTERVAL, &pool).unwrap(), Saved::NotDue);
        assert!(persist.snapshot(&pool).is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipp.txt");
        fs::write(&path, "alice,10.8.0.5\n").unwrap();
        // A directory stands where the temporary file must go.
        fs::create_dir(dir.path().join("ipp.txt.tmp")).unwrap();
        let start = crate::clock::now();
        let mut pool = pool();
        let (mut persist, _) = Persist::load(&path, INTERVAL, start, &mut pool).unwrap();
        lease_of(&mut pool, "bob");
        let error = persist.save_if_due(start + INTERVAL, &pool).unwrap_err();
        assert!(error.to_string().contains("ipp.txt.tmp"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "alice,10.8.0.5\n");
        fs::remove_dir(dir.path().join("ipp.txt.tmp")).unwrap();
        assert_eq!(persist.save_if_due(start + 2 * INTERVAL, &pool).unwrap(), Saved::Written);
        assert!(fs::read_to_string(&path).unwrap().starts_with("bob,10.8.0.2"));
    }

    #[test]
    fn a_temporary_file_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("ipp.txt"), dir.path().join("other"));
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("ipp.txt.tmp")).unwrap();
        let start = crate::clock::now();
        let mut pool = pool();
        let (persist, _) = Persist::load(&path, INTERVAL, start, &mut pool).unwrap();
        lease_of(&mut pool, "bob");
        persist.snapshot(&pool).unwrap().write().unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert!(fs::read_to_string(&path).unwrap().starts_with("bob,"));
    }

    #[test]
    fn a_directory_or_a_huge_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let start = crate::clock::now();
        let error = Persist::load(dir.path(), INTERVAL, start, &mut pool()).unwrap_err();
        assert!(matches!(error, PersistError::Io { action: "read", .. }), "{error}");
        let path = dir.path().join("huge");
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let error = Persist::load(&path, INTERVAL, start, &mut pool()).unwrap_err();
        assert!(matches!(error, PersistError::TooLarge { .. }), "{error}");
    }

    proptest! {
        /// Whatever the names are, what is written reads back the same and takes no other client's place.
        #[test]
        fn names_read_back_or_are_left_out(names in prop::collection::btree_set("\\PC{0,8}|[ ,#;\r\na]{0,4}", 0..8)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ipp.txt");
            let start = crate::clock::now();
            let mut before = pool();
            let (mut persist, _) = Persist::load(&path, INTERVAL, start, &mut before).unwrap();
            for name in &names {
                lease_of(&mut before, name);
            }
            persist.save_if_due(start + INTERVAL, &before).unwrap();
            let mut after = pool();
            let (_, rejected) = Persist::load(&path, INTERVAL, start, &mut after).unwrap();
            prop_assert_eq!(rejected, []);
            let expected: Vec<_> = before.hints().filter(|hint| is_writable(&hint.common_name)).collect();
            prop_assert_eq!(after.hints().collect::<Vec<_>>(), expected);
        }
    }
}
