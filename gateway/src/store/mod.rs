//! The embedded store: what must survive a stop, `kill -9` and a loss of power, in an append-only file.
//!
//! **What survives what.** A change is handed to the kernel (write(2)) by a thread of its own as soon as the thread gets
//! to it, which is at once unless the disk is busy; whoever must know waits for [`Store::written`]. From then on it
//! survives the end of the process, `kill -9` included. The file is synced (fdatasync(2)) at most once a second, and no
//! later than a second after a change: a loss of power may cost the last second. A compacted file is synced before it
//! takes the place of the old one.
//!
//! **What a failing disk costs.** Nothing waits for it: changes stay in memory, in a bounded queue, and the disk is
//! tried again every five seconds. When the queue was too short, or a sync has failed so that the file cannot be trusted,
//! the next thing that succeeds is a new file with everything in it.
//!
//! **What a damaged file costs.** A journal is read up to the first record that is not whole, and cut there; a crash
//! leaves at most one such record, at the end. A journal whose header is damaged is kept under another name.
//!
//! The owner of the state is the caller: it applies what [`Opening::replay`] reads, applies every change *before* it
//! appends it, and gives out snapshots ([`Source`]). Another engine would be one more variant of [`Store`].

mod disk;
mod journal;
mod queue;
mod record;
mod writer;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub use journal::{Journal, LoadReport, Opening};
pub use queue::{MAX_QUEUED_BYTES, Written};
#[cfg(test)]
pub(crate) use record::tests::record as test_record;
pub use record::{HEADER_BYTES, Record, Undecodable};

/// Where changes go.
#[derive(Debug)]
pub enum Store {
    /// Nowhere: they live as long as the process.
    Memory,
    /// To a file.
    Journal(Journal),
}

impl Store {
    /// Hands over a change that is in force already. Never blocks and never fails.
    pub fn append(&self, record: &Record) {
        match self {
            Self::Memory => {}
            Self::Journal(journal) => journal.append(record),
        }
    }

    /// When all that was appended so far survives `kill -9`. In memory it is as safe as it gets at once.
    pub fn written(&self) -> Written {
        match self {
            Self::Memory => Written::known(true),
            Self::Journal(journal) => journal.written(),
        }
    }

    /// Counters; all 0 in memory.
    pub fn stats(&self) -> StoreStats {
        match self {
            Self::Memory => StoreStats::default(),
            Self::Journal(journal) => journal.stats(),
        }
    }

    /// Writes and syncs what is left, and ends the writer. Blocks, but not for more than two seconds; whether all was
    /// written.
    pub fn close(&self) -> bool {
        match self {
            Self::Memory => true,
            Self::Journal(journal) => journal.close(),
        }
    }
}

/// Counters since the start, and how things are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Records that were appended, those of snapshots not included.
    pub records: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Calls of write(2) that succeeded.
    pub writes: u64,
    /// Calls of fdatasync(2) that succeeded.
    pub syncs: u64,
    /// Calls that failed.
    pub failures: u64,
    /// How often the file was compacted.
    pub compactions: u64,
    /// Records that waited in vain, and were left to a snapshot.
    pub dropped: u64,
    /// Bytes of the journal.
    pub size: u64,
    /// Bytes that wait.
    pub waiting: u64,
    /// Whether the disk fails.
    pub failing: bool,
}

/// Who owns the state that the records make.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// Gives records that make all of the state to `sink`, until it breaks off. What changes meanwhile may be in or not,
    /// as it is appended anyway. Holds no lock while `sink` runs.
    fn snapshot(&self, sink: &mut dyn FnMut(Record) -> ControlFlow<()>);

    /// Bytes of such a snapshot, at most, without the header.
    fn live_bytes(&self) -> u64;
}

/// Why a store cannot be opened. An operator must put it right; what may pass by itself is no such error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system said no.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Another gateway has it.
    #[error("{} is in use by another gateway", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A link, or something else.
    #[error("{} is not {wanted}", path.display())]
    WrongKind {
        /// What is there.
        path: PathBuf,
        /// What should be.
        wanted: &'static str,
    },
    /// Others could put a journal of theirs there.
    #[error("others can write to {} (mode {mode:o}): chmod go-w", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A newer gateway has written it.
    #[error("{} was written by a newer gateway: it has something at byte {at} that this one does not know", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Where.
        at: u64,
    },
    /// The system gives no random bytes.
    #[error("the system gives no randomness")]
    Random,
}
