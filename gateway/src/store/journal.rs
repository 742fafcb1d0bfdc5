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

    /// Writes and syncs what is left, and ends the writer; blocks for [`STOP_WAIT`] at most. Whether all was written.
    pub fn close(&self) -> bool {
        self.queue.stop(STOP_WAIT) && !self.stats().failing
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}
