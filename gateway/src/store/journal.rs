//! The journal: how it is opened, read and handed to its writer.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use super::disk::Directory;
use super::queue::{Queue, Written};
use super::record::{
    HEADER_BYTES, MAX_RECORD_BYTES, Record, Undecodable, body_length, decode_header, encode_header,
    frame_bytes,
};
use super::writer::{Counters, Start, Writer};
use super::{Source, StoreError, StoreStats};
use crate::clock;
use crate::tokens::Pepper;

/// How long a stop waits for the writer: a disk that hangs must not hang the stop.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// What was found at the start, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadReport {
    /// The journal.
    pub path: PathBuf,
    /// Records that were read.
    pub records: u64,
    /// Bytes of header and records.
    pub bytes: u64,
    /// Bytes behind them that were no whole record, and were cut off.
    pub dropped: u64,
    /// Where a journal is that could not be used.
    pub set_aside: Option<PathBuf>,
    /// Why the disk cannot be written now. It is tried again.
    pub trouble: Option<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} records in {} bytes", self.path.display(), self.records, self.bytes)?;
        if self.dropped > 0 {
            write!(f, "; {} bytes at the end were no whole record and were cut off", self.dropped)?;
        }
        if let Some(path) = &self.set_aside {
            write!(
                f,
                "; what was there before cannot be read any further and is kept as {}",
                path.display()
            )?;
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "; it cannot be written now ({trouble}), and is tried again")?;
        }
        Ok(())
    }
}

/// A journal before it takes records.
#[derive(Debug)]
pub struct Opening {
    directory: Directory,
    pepper: Zeroizing<[u8; Pepper::BYTES]>,
    /// Whether there is a journal with a header.
    is_there: bool,
    trouble: Option<io::Error>,
    report: LoadReport,
}

impl Opening {
    /// Takes `path`, a directory that is made if it is missing, and reads the journal's header. A journal that is not
    /// there is begun with a pepper from `rng`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, rng: &dyn SecureRandom) -> Result<Self, StoreError> {
        let (directory, trouble) = Directory::open(path)?;
        let mut pepper = Zeroizing::new([0; Pepper::BYTES]);
        rng.fill(&mut *pepper).map_err(|_| StoreError::Random)?;
        let report = LoadReport { path: directory.journal_path(), ..LoadReport::default() };
        let mut opening = Self { directory, pepper, is_there: false, trouble, report };
        opening.read_header()?;
        Ok(opening)
    }

    /// The key of the hashes in it.
    #[must_use]
    pub fn pepper(&self) -> Pepper {
        Pepper::new(&self.pepper)
    }

    /// Reads all whole records up to the first that is not.
    ///
    /// # Errors
    /// [`StoreError`]: a newer gateway's records. What is damaged is no error.
    pub fn replay(&mut self, mut apply: impl FnMut(Record)) -> Result<(), StoreError> {
        let Some(file) = self.directory.journal().filter(|_| self.is_there) else { return Ok(()) };
        // The header was read; the file stands behind it.
        let mut reader = Reader { from: BufReader::new(file), at: HEADER_BYTES as u64, records: 0 };
        let end = reader.read_all(&mut apply);
        (self.report.records, self.report.bytes) = (reader.records, reader.at);
        match end {
            Ok(()) => Ok(()),
            Err(End::Newer) => Err(StoreError::Newer { path: self.report.path.clone(), at: reader.at }),
            Err(End::Damaged) => {
                let whole = reader.at;
                let cut = file.metadata().and_then(|metadata| {
                    self.report.dropped = metadata.len().saturating_sub(whole);
                    file.set_len(whole)
                });
                if let Err(error) = cut {
                    self.trouble.get_or_insert(error);
                }
                Ok(())
            }
            // The rest may be readable some day.
            Err(End::Unreadable) => self.set_aside(),
        }
    }

    /// Starts the writer. `source` must have applied all that [`Self::replay`] gave.
    ///
    /// # Errors
    /// [`StoreError`] when there can be no thread.
    pub fn start(self, source: Arc<dyn Source>) -> Result<(Journal, LoadReport), StoreError> {
        let Self { directory, pepper, is_there, trouble, mut report } = self;
        report.trouble = trouble.as_ref().map(ToString::to_string);
        let path = report.path.clone();
        let (queue, counters) = (Arc::new(Queue::default()), Arc::new(Counters::default()));
        let size = if is_there { report.bytes } else { 0 };
        let start = Start { header: encode_header(&pepper), size, trouble };
        let mut writer = Writer::new(directory, Arc::clone(&queue), source, Arc::clone(&counters), start);
        // A new journal is there before anybody relies on it.
        writer.turn(clock::now());
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Io { action: "start a thread for", path, error })?;
        Ok((Journal { queue, counters }, report))
    }

    fn read_header(&mut self) -> Result<(), StoreError> {
        let Some(mut file) = self.directory.journal() else { return Ok(()) };
        let mut header = Zeroizing::new(Vec::with_capacity(HEADER_BYTES));
        let read = Read::by_ref(&mut file).take(HEADER_BYTES as u64).read_to_end(&mut header);
        if read.as_ref().is_ok_and(|length| *length == 0) {
            return Ok(());
        }
        match decode_header(&header) {
            Ok(pepper) => {
                self.pepper = pepper;
                self.is_there = true;
                self.report.bytes = HEADER_BYTES as u64;
                Ok(())
            }
            Err(Undecodable::Newer) => Err(StoreError::Newer { path: self.report.path.clone(), at: 8 }),
            Err(Undecodable::Damaged) => self.set_aside(),
        }
    }

    fn set_aside(&mut self) -> Result<(), StoreError> {
        self.is_there = false;
        let path = self.report.path.clone();
        let kept = self.directory.set_aside();
        self.report.set_aside =
            Some(kept.map_err(|error| StoreError::Io { action: "rename", path, error })?);
        Ok(())
    }
}

/// Why there are no more records.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Damaged,
    Newer,
    Unreadable,
}

struct Reader<R> {
    from: R,
    /// Bytes that were header and whole records.
    at: u64,
    records: u64,
}

impl<R: Read> Reader<R> {
    fn read_all(&mut self, apply: &mut impl FnMut(Record)) -> Result<(), End> {
        let mut bytes = Zeroizing::new([0; MAX_RECORD_BYTES]);
        loop {
            let frame = bytes.get_mut(..frame_bytes()).ok_or(End::Damaged)?;
            match self.fill(frame)? {
                0 => return Ok(()),
                length if length < frame_bytes() => return Err(End::Damaged),
                _ => {}
            }
            let length = frame_bytes() + body_length(frame).ok_or(End::Damaged)?;
            let body = bytes.get_mut(frame_bytes()..length).ok_or(End::Damaged)?;
            if self.fill(body)? < body.len() {
                return Err(End::Damaged);
            }
            match Record::decode(bytes.get(..length).ok_or(End::Damaged)?) {
                Ok((record, _)) => apply(record),
                Err(Undecodable::Damaged) => return Err(End::Damaged),
                Err(Undecodable::Newer) => return Err(End::Newer),
            }
            self.at += length as u64;
            self.records += 1;
        }
    }

    /// Fills `bytes` as far as the file goes.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, End> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Unreadable),
            }
        }
        Ok(filled)
    }
}

/// The handle of a journal that is being written.
#[derive(Debug)]
pub struct Journal {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

impl Journal {
    /// Hands over a change that is in force already. Never blocks and never fails.
    pub fn append(&self, record: &Record) {
        self.queue.append(record);
    }

    /// When all that was appended so far is with the kernel.
    pub fn written(&self) -> Written {
        self.queue.written()
    }

    /// Counters.
    pub fn stats(&self) -> StoreStats {
        self.counters.read(&self.queue)
    }

    /// Writes and syncs what is left, and ends the writer; blocks for two seconds at most. Whether all
    /// was written.
    pub fn close(&self) -> bool {
        self.queue.stop(STOP_WAIT) && !self.stats().failing
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::sync::Mutex;

    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    use super::*;
    use crate::store::record::tests::record;

    /// Records in the order in which they came.
    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<Record>>);

    impl Source for Log {
        fn snapshot(&self, sink: &mut dyn FnMut(Record) -> ControlFlow<()>) {
            let _ = self.0.lock().unwrap().iter().cloned().try_for_each(sink);
        }

        fn live_bytes(&self) -> u64 {
            u64::MAX / 4
        }
    }

    fn open(path: &Path) -> Result<(Opening, Vec<Record>), StoreError> {
        let mut opening = Opening::open(path, &SystemRandom::new())?;
        let mut records = Vec::new();
        opening.replay(|record| records.push(record))?;
        Ok((opening, records))
    }

    fn start(path: &Path) -> (Journal, Arc<Log>, LoadReport) {
        let (opening, records) = open(path).unwrap();
        let log = Arc::new(Log(Mutex::new(records)));
        let (journal, report) = opening.start(Arc::<Log>::clone(&log)).unwrap();
        (journal, log, report)
    }

    fn used(counter: u64) -> Record {
        Record::OtpUsed { username: "alice".into(), counter }
    }

    fn add(journal: &Journal, log: &Log, record: &Record) {
        log.0.lock().unwrap().push(record.clone());
        journal.append(record);
    }

    fn encoded(records: &[Record]) -> Vec<Vec<u8>> {
        let encode = |record: &Record| {
            let mut bytes = Vec::new();
            assert!(record.encode(&mut bytes));
            bytes
        };
        records.iter().map(encode).collect()
    }

    #[test]
    fn records_outlive_the_journal_that_took_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (journal, log, report) = start(&path);
        assert_eq!((report.records, report.bytes, report.dropped), (0, 0, 0));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for file in ["journal", "lock"] {
            assert_eq!(fs::metadata(path.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
        }
        for counter in 0..100 {
            add(&journal, &log, &used(counter));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(journal.written()));
        // As it is now, `kill -9` would leave it.
        let as_killed = fs::read(path.join("journal")).unwrap();
        assert_eq!(as_killed[HEADER_BYTES..], encoded(&log.0.lock().unwrap()).concat());
        let pepper = Zeroizing::new(as_killed[12..44].to_vec());
        assert!(journal.close());
        assert!(journal.stats().syncs > 0 && !journal.stats().failing);
        // What comes later is not written, and nobody waits for it.
        add(&journal, &log, &used(100));
        assert!(!runtime.block_on(journal.written()));
        drop(journal);
        let (opening, records) = open(&path).unwrap();
        assert_eq!(records, (0..100).map(used).collect::<Vec<_>>());
        assert_eq!(opening.pepper[..], pepper[..]);
        assert_eq!(
            opening.report.to_string(),
            format!("{}: 100 records in {} bytes", path.join("journal").display(), as_killed.len())
        );
    }

    #[test]
    fn two_gateways_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (journal, ..) = start(&path);
        let error = open(&path).unwrap_err();
        assert!(matches!(&error, StoreError::InUse { .. }), "{error}");
        drop(journal);
        open(&path).unwrap();
    }

    #[test]
    fn what_is_no_journal_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let in_dir = |name: &str| dir.path().join(name);
        fs::write(in_dir("file"), "precious").unwrap();
        let refused = |path: &Path| open(path).unwrap_err().to_string();
        assert!(refused(&in_dir("file")).contains("is not a directory"));
        assert!(refused(&in_dir("no/where")).contains("cannot create"));
        fs::create_dir(in_dir("real")).unwrap();
        symlink(in_dir("real"), in_dir("link")).unwrap();
        assert!(refused(&in_dir("link")).contains("is not a directory"));
        for name in ["journal", "lock"] {
            let path = in_dir(&format!("linked-{name}"));
            fs::create_dir(&path).unwrap();
            symlink(in_dir("file"), path.join(name)).unwrap();
            assert!(refused(&path).contains("is not a regular file"), "{}", refused(&path));
            fs::remove_file(path.join(name)).unwrap();
            fs::create_dir(path.join(name)).unwrap();
            open(&path).unwrap_err();
        }
        fs::create_dir(in_dir("open")).unwrap();
        fs::set_permissions(in_dir("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(&in_dir("open")).contains("chmod go-w"));
        assert_eq!(fs::read_to_string(in_dir("file")).unwrap(), "precious");
        // A file that others could read is closed to them.
        drop(start(&in_dir("real")));
        let journal = in_dir("real").join("journal");
        fs::set_permissions(&journal, fs::Permissions::from_mode(0o644)).unwrap();
        open(&in_dir("real")).unwrap();
        assert_eq!(fs::metadata(&journal).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_newer_gateways_journal_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        drop(start(dir.path()));
        let journal = dir.path().join("journal");
        let mut bytes = fs::read(&journal).unwrap();
        used(1).encode(&mut bytes);
        let mut newer = bytes.clone();
        // A record of kind 200: right checksum, unknown to us.
        let body = [200u8, 1, 0];
        let length = (body.len() as u16).to_le_bytes();
        newer.extend(length);
        newer.extend(crc32fast::hash(&[&length[..], &body].concat()).to_le_bytes());
        newer.extend(body);
        used(2).encode(&mut newer);
        fs::write(&journal, &newer).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Newer { at, .. } if *at == bytes.len() as u64), "{error}");
        assert_eq!(fs::read(&journal).unwrap(), newer);
        let mut header = newer[..HEADER_BYTES - 4].to_vec();
        header[8] = 9;
        header.extend(crc32fast::hash(&header).to_le_bytes());
        fs::write(&journal, &header).unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("newer gateway"));
        assert_eq!(fs::read(&journal).unwrap(), header);
    }

    #[test]
    fn a_journal_with_a_damaged_header_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            fs::write(dir.path().join("journal"), format!("scribble {round}")).unwrap();
            let (journal, log, report) = start(dir.path());
            let kept = dir.path().join(format!("journal.damaged.{round}"));
            assert_eq!((report.set_aside.as_deref(), report.records), (Some(&*kept), 0));
            assert_eq!(fs::read_to_string(&kept).unwrap(), format!("scribble {round}"));
            add(&journal, &log, &used(round));
            assert!(journal.close());
            drop(journal);
            assert_eq!(open(dir.path()).unwrap().1, [used(round)]);
        }
    }

    #[test]
    fn each_state_that_a_crash_leaves_in_the_directory_loads() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (journal, log, _) = start(dir.path());
        (0..5).for_each(|counter| add(&journal, &log, &used(counter)));
        assert!(journal.close());
        drop(journal);
        let whole = fs::read(path("journal")).unwrap();
        let expected: Vec<Record> = (0..5).map(used).collect();
        // Before the rename: a successor of any length is beside the journal.
        for length in 0..=whole.len() {
            fs::write(path("journal"), &whole).unwrap();
            fs::write(path("journal.new"), &whole[..length]).unwrap();
            let (opening, records) = open(dir.path()).unwrap();
            assert_eq!(records, expected);
            drop(opening);
        }
        // Even a link in its place is not followed when the next one is made.
        fs::write(path("other"), "precious").unwrap();
        fs::remove_file(path("journal.new")).unwrap();
        symlink(path("other"), path("journal.new")).unwrap();
        fs::remove_file(path("journal")).unwrap();
        let (journal, log, _) = start(dir.path());
        add(&journal, &log, &used(9));
        assert!(journal.close());
        drop(journal);
        assert_eq!(fs::read_to_string(path("other")).unwrap(), "precious");
        assert_eq!(open(dir.path()).unwrap().1, [used(9)]);
        // A file that was made and never written.
        fs::write(path("journal"), "").unwrap();
        let (_, _, report) = start(dir.path());
        assert_eq!((report.set_aside, report.records), (None, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Cut anywhere, it is the longest whole prefix, and goes on from there.
        #[test]
        fn a_cut_journal_is_its_longest_whole_prefix(records in prop::collection::vec(record(), 1..12)) {
            let dir = tempfile::tempdir().unwrap();
            let journal = dir.path().join("journal");
            let mut bytes = encode_header(&[7; 32]).to_vec();
            let mut ends = vec![bytes.len()];
            for record in encoded(&records) {
                bytes.extend(record);
                ends.push(bytes.len());
            }
            for cut in 0..=bytes.len() {
                fs::write(&journal, &bytes[..cut]).unwrap();
                let (opening, read) = open(dir.path()).unwrap();
                let whole = ends.iter().filter(|end| **end <= cut).count();
                if whole == 0 {
                    prop_assert_eq!((opening.is_there, opening.report.set_aside.is_some(), read.len()), (false, cut > 0, 0));
                    if let Some(kept) = &opening.report.set_aside {
                        prop_assert_eq!(fs::read(kept).unwrap(), &bytes[..cut]);
                        fs::remove_file(kept).unwrap();
                    }
                    continue;
                }
                prop_assert_eq!(&*opening.pepper, &[7; 32]);
                prop_assert_eq!(&read[..], &records[..whole - 1]);
                prop_assert_eq!(opening.report.dropped as usize, cut - ends[whole - 1]);
                prop_assert_eq!(fs::metadata(&journal).unwrap().len() as usize, ends[whole - 1]);
                // It is not cut a second time.
                drop(opening);
                let (again, read) = open(dir.path()).unwrap();
                prop_assert_eq!((again.report.dropped, read.len()), (0, whole - 1));
            }
        }

        /// A changed bit costs its record and what follows, and nothing else.
        #[test]
        fn a_flipped_bit_is_found(
            records in prop::collection::vec(record(), 1..12),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let journal = dir.path().join("journal");
            let mut bytes = encode_header(&[7; 32]).to_vec();
            let mut ends = vec![bytes.len()];
            for record in encoded(&records) {
                bytes.extend(record);
                ends.push(bytes.len());
            }
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&journal, &flipped).unwrap();
                let (opening, read) = open(dir.path()).unwrap();
                let whole = ends.iter().filter(|end| **end <= at).count();
                prop_assert_eq!(opening.is_there, whole > 0);
                prop_assert_eq!(&read[..], &records[..whole.saturating_sub(1)]);
                if let Some(kept) = &opening.report.set_aside {
                    fs::remove_file(kept).unwrap();
                }
            }
        }

        /// What comes after the cut is read after what was before it.
        #[test]
        fn a_cut_journal_goes_on(records in prop::collection::vec(record(), 2..12), cut in any::<prop::sample::Index>()) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = encode_header(&[7; 32]).to_vec();
            bytes.extend(encoded(&records[1..]).concat());
            bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES));
            fs::write(dir.path().join("journal"), &bytes).unwrap();
            let (journal, log, report) = start(dir.path());
            add(&journal, &log, &records[0]);
            prop_assert!(journal.close());
            drop(journal);
            let (_, read) = open(dir.path()).unwrap();
            prop_assert_eq!(read.len() as u64, report.records + 1);
            prop_assert_eq!(&read, &*log.0.lock().unwrap());
        }
    }
}
