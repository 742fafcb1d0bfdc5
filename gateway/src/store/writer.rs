//! The thread that writes.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::disk::{Disk, Which};
use super::queue::{Batch, Queue};
use super::record::{HEADER_BYTES, MAX_RECORD_BYTES};
use super::{Source, StoreStats};
use crate::clock;

/// The journal is not compacted while it is smaller than this: to write it anew is not worth the trouble.
pub(super) const COMPACT_ABOVE: u64 = 1024 * 1024;

/// It is compacted when it is this many times as large as what is alive in it.
const COMPACT_FACTOR: u64 = 2;

/// What was written is synced after this time at the latest: what a loss of power may cost.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A disk that fails is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A compaction that fails while the journal itself is fine is tried again after this time.
const COMPACT_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Bytes of a snapshot that are collected for one write.
const CHUNK_BYTES: usize = 256 * 1024;

/// Counters that the writer alone changes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    failures: AtomicU64,
    compactions: AtomicU64,
    size: AtomicU64,
    failing: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self, queue: &Queue) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            records: read(&self.records),
            bytes: read(&self.bytes),
            writes: read(&self.writes),
            syncs: read(&self.syncs),
            failures: read(&self.failures),
            compactions: read(&self.compactions),
            dropped: queue.dropped(),
            size: read(&self.size),
            waiting: queue.waiting_bytes() as u64,
            failing: read(&self.failing) != 0,
        }
    }
}

/// What failed.
#[derive(Debug)]
struct Failure {
    action: &'static str,
    error: io::Error,
    /// The journal cannot be written. Otherwise only its successor cannot.
    journal: bool,
}

/// Since when the disk fails.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    since: Instant,
    retry: Instant,
}

#[derive(Debug)]
pub(super) struct Writer<D> {
    disk: D,
    queue: Arc<Queue>,
    source: Arc<dyn Source>,
    counters: Arc<Counters>,
    header: Zeroizing<Vec<u8>>,
    /// Bytes of the journal that are whole records.
    size: u64,
    /// There may be bytes after them: they go before anything is appended.
    torn: bool,
    /// What the disk did not take yet.
    batch: Option<Batch>,
    /// The journal is not there, or cannot be trusted, or lacks records: a snapshot must take its place.
    replace: bool,
    /// Since when there is something to sync.
    unsynced: Option<Instant>,
    trouble: Option<Trouble>,
    compact_after: Option<Instant>,
    compaction_failed: bool,
}

/// What the writer starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) header: Zeroizing<Vec<u8>>,
    /// Bytes of the journal; 0 when there is none that can be appended to.
    pub(super) size: u64,
    /// What went wrong at the start already.
    pub(super) trouble: Option<io::Error>,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        disk: D,
        queue: Arc<Queue>,
        source: Arc<dyn Source>,
        counters: Arc<Counters>,
        start: Start,
    ) -> Self {
        let mut writer = Self {
            disk,
            queue,
            source,
            counters,
            header: start.header,
            size: start.size,
            torn: false,
            batch: None,
            replace: start.size < HEADER_BYTES as u64,
            unsynced: None,
            trouble: None,
            compact_after: None,
            compaction_failed: false,
        };
        writer.counters.size.store(start.size, Ordering::Relaxed);
        if let Some(error) = start.trouble {
            // A file that could only be read, or none: there must be a new one.
            writer.replace = true;
            writer.failed(&Failure { action: "open", error, journal: true }, clock::now());
        }
        writer
    }

    /// Writes until it is told to stop, and then what is left.
    pub(super) fn run(mut self) {
        loop {
            let stop = {
                let most = self.due().map(|due| due.saturating_duration_since(clock::now()));
                self.queue.sleep(most, self.trouble.is_none()).stop
            };
            self.turn(clock::now());
            if stop {
                self.last_turn(clock::now());
                let queue = Arc::clone(&self.queue);
                // Who learns that it has ended may open it again.
                drop(self);
                queue.finish();
                return;
            }
        }
    }

    /// One turn: what waits is written, what is due is done. Blocks on the disk and on nothing else.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.trouble.is_some_and(|trouble| now < trouble.retry) {
            return;
        }
        match self.write_what_waits(now) {
            Ok(()) => self.recovered(now),
            Err(failure) => self.failed(&failure, now),
        }
        self.compact_if_due(now);
    }

    /// When there is something to do though nothing is appended.
    fn due(&self) -> Option<Instant> {
        match self.trouble {
            Some(trouble) => Some(trouble.retry),
            None => self.unsynced.map(|since| since + SYNC_EVERY),
        }
    }

    /// At the stop everything is tried once more, and synced at once.
    fn last_turn(&mut self, now: Instant) {
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = now;
        }
        self.turn(now);
        if self.unsynced.is_some() && self.trouble.is_none() {
            self.turn(now + SYNC_EVERY);
        }
        if self.trouble.is_some() {
            error!("journal: the last changes could not be written; they are lost with this process");
        }
    }

    fn write_what_waits(&mut self, now: Instant) -> Result<(), Failure> {
        self.replace |= self.queue.has_given_up();
        if self.replace {
            self.batch = None;
            let last = self.queue.begin_snapshot();
            let result = self.snapshot(false, now);
            if result.is_err() {
                self.queue.give_up();
            }
            result?;
            self.queue.confirm(last);
        }
        self.append(None, now)?;
        if self.unsynced.is_some_and(|since| now.saturating_duration_since(since) >= SYNC_EVERY) {
            self.unsynced = None;
            self.disk.sync(Which::Journal).map_err(|error| {
                // The kernel may have dropped what it could not write, and say so only once.
                self.replace = true;
                Failure { action: "sync", error, journal: true }
            })?;
            add(&self.counters.syncs, 1);
        }
        Ok(())
    }

    /// Appends what waits, to the journal and, while it is compacted, to its successor.
    fn append(&mut self, mut successor: Option<&mut u64>, now: Instant) -> Result<(), Failure> {
        loop {
            let batch = self.batch.take().unwrap_or_else(|| self.queue.take());
            if batch.records == 0 {
                return Ok(());
            }
            if let Err((action, error)) = self.append_batch(&batch) {
                self.batch = Some(batch);
                return Err(Failure { action, error, journal: true });
            }
            self.unsynced.get_or_insert(now);
            self.queue.confirm(batch.last);
            add(&self.counters.records, batch.records);
            if let Some(size) = successor.as_deref_mut() {
                *size += batch.bytes.len() as u64;
                self.write_all(Which::Next, &batch.bytes).map_err(|error| Failure {
                    action: "write",
                    error,
                    journal: false,
                })?;
            }
        }
    }

    fn append_batch(&mut self, batch: &Batch) -> Result<(), (&'static str, io::Error)> {
        if self.torn {
            self.disk.truncate(self.size).map_err(|error| ("truncate", error))?;
            self.torn = false;
        }
        self.write_all(Which::Journal, &batch.bytes).map_err(|error| {
            self.torn = true;
            ("write", error)
        })?;
        self.resized(self.size + batch.bytes.len() as u64);
        Ok(())
    }

    fn write_all(&mut self, which: Which, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.disk.write(which, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    add(&self.counters.writes, 1);
                    add(&self.counters.bytes, written as u64);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn compact_if_due(&mut self, now: Instant) {
        if self.trouble.is_some()
            || self.size <= COMPACT_ABOVE
            || self.compact_after.is_some_and(|after| now < after)
            || self.size <= COMPACT_FACTOR * (HEADER_BYTES as u64 + self.source.live_bytes())
        {
            return;
        }
        match self.snapshot(true, now) {
            Ok(()) => {
                add(&self.counters.compactions, 1);
                self.compact_after = None;
                self.compaction_failed = false;
            }
            Err(failure) if failure.journal => self.failed(&failure, now),
            Err(Failure { action, error, .. }) => {
                add(&self.counters.failures, 1);
                self.compact_after = Some(now + COMPACT_RETRY_AFTER);
                if !std::mem::replace(&mut self.compaction_failed, true) {
                    warn!("journal: cannot {action} its compacted form, so it grows: {error}");
                }
            }
        }
    }

    /// Writes everything to a new file that takes the journal's place. With `append`, what comes meanwhile goes to both,
    /// so that nobody waits for the end and a crash at any moment finds one file or the other complete.
    fn snapshot(&mut self, append: bool, now: Instant) -> Result<(), Failure> {
        let failed = |action| move |error| Failure { action, error, journal: !append };
        self.disk.create_next().map_err(failed("create"))?;
        let header = self.header.clone();
        self.write_all(Which::Next, &header).map_err(failed("write"))?;
        let mut size = header.len() as u64;
        let source = Arc::clone(&self.source);
        let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + MAX_RECORD_BYTES));
        let mut result = Ok(());
        source.snapshot(&mut |record| {
            // What is too long for a record was too long for the source.
            record.encode(&mut chunk);
            if chunk.len() < CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            result = self.write_all(Which::Next, &chunk).map_err(failed("write"));
            size += chunk.len() as u64;
            chunk.clear();
            if append && result.is_ok() {
                result = self.append(Some(&mut size), now);
            }
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        result?;
        self.write_all(Which::Next, &chunk).map_err(failed("write"))?;
        size += chunk.len() as u64;
        if append {
            self.append(Some(&mut size), now)?;
        }
        self.disk.sync(Which::Next).map_err(failed("sync"))?;
        add(&self.counters.syncs, 1);
        self.disk.adopt_next().map_err(failed("rename"))?;
        self.resized(size);
        (self.torn, self.replace, self.unsynced) = (false, false, None);
        self.disk.sync_directory().map_err(|error| {
            // After a loss of power the old file may be back: write it all again, rather than appending to this one.
            self.replace = true;
            Failure { action: "sync the directory of", error, journal: true }
        })
    }

    fn resized(&mut self, size: u64) {
        self.size = size;
        self.counters.size.store(size, Ordering::Relaxed);
    }

    fn failed(&mut self, failure: &Failure, now: Instant) {
        add(&self.counters.failures, 1);
        self.counters.failing.store(1, Ordering::Relaxed);
        if self.trouble.is_none() {
            error!(
                "journal: cannot {} it: {}; changes are kept in memory and the disk is tried every {} s",
                failure.action,
                failure.error,
                RETRY_AFTER.as_secs()
            );
        }
        let since = self.trouble.map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, retry: now + RETRY_AFTER });
    }

    fn recovered(&mut self, now: Instant) {
        if let Some(trouble) = self.trouble.take() {
            self.counters.failing.store(0, Ordering::Relaxed);
            let seconds = now.saturating_duration_since(trouble.since).as_secs();
            info!("journal: the disk works again after {seconds} s, and nothing is missing");
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::store::queue::Written;
    use crate::store::record::{Record, encode_header};

    /// A disk in memory, each operation of which fails when it is told to.
    #[derive(Debug, Default)]
    struct Fake {
        journal: Vec<u8>,
        next: Option<Vec<u8>>,
        next_synced: usize,
        faults: Faults,
        /// The journal after each operation: what `kill -9` would leave.
        history: Vec<Vec<u8>>,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    struct Faults {
        /// Bytes that still fit on the disk.
        space: Option<usize>,
        /// Most bytes of one write.
        short: Option<usize>,
        write: bool,
        sync: bool,
        truncate: bool,
        create: bool,
        rename: bool,
        directory: bool,
    }

    fn fail(when: bool) -> io::Result<()> {
        if when { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    impl Disk for Fake {
        fn write(&mut self, which: Which, bytes: &[u8]) -> io::Result<usize> {
            fail(self.faults.write)?;
            let mut length = bytes.len().min(self.faults.short.unwrap_or(usize::MAX).max(1));
            if let Some(space) = &mut self.faults.space {
                if *space == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                length = length.min(*space);
                *space -= length;
            }
            match which {
                Which::Journal => self.journal.extend_from_slice(&bytes[..length]),
                Which::Next => self.next.as_mut().unwrap().extend_from_slice(&bytes[..length]),
            }
            self.history.push(self.journal.clone());
            Ok(length)
        }

        fn sync(&mut self, which: Which) -> io::Result<()> {
            fail(self.faults.sync)?;
            if which == Which::Next {
                self.next_synced = self.next.as_ref().unwrap().len();
            }
            Ok(())
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            fail(self.faults.truncate)?;
            assert!(length as usize <= self.journal.len());
            self.journal.truncate(length as usize);
            self.history.push(self.journal.clone());
            Ok(())
        }

        fn create_next(&mut self) -> io::Result<()> {
            fail(self.faults.create)?;
            (self.next, self.next_synced) = (Some(Vec::new()), 0);
            Ok(())
        }

        fn adopt_next(&mut self) -> io::Result<()> {
            fail(self.faults.rename)?;
            let next = self.next.take().unwrap();
            assert_eq!(self.next_synced, next.len(), "a loss of power now would leave half a file");
            self.journal = next;
            self.history.push(self.journal.clone());
            Ok(())
        }

        fn sync_directory(&mut self) -> io::Result<()> {
            fail(self.faults.directory)
        }
    }

    /// Counters that grow.
    #[derive(Debug, Default)]
    struct Model(Mutex<BTreeMap<String, u64>>);

    impl Source for Model {
        fn snapshot(&self, sink: &mut dyn FnMut(Record) -> ControlFlow<()>) {
            let all = self.0.lock().unwrap().clone();
            for (username, counter) in all {
                if sink(Record::OtpUsed { username, counter }).is_break() {
                    return;
                }
            }
        }

        fn live_bytes(&self) -> u64 {
            let all = self.0.lock().unwrap();
            all.keys().map(|name| (Record::OTP_BYTES + name.len()) as u64).sum()
        }
    }

    fn long_name(number: u32) -> String {
        format!("{number:0>250}")
    }

    struct Bench {
        model: Arc<Model>,
        queue: Arc<Queue>,
        writer: Writer<Fake>,
        now: Instant,
        counter: u64,
        /// Who waits for which state.
        waiting: Vec<(BTreeMap<String, u64>, Written)>,
    }

    impl Bench {
        fn new() -> Self {
            let (model, queue) = (Arc::new(Model::default()), Arc::new(Queue::default()));
            let start = Start { header: encode_header(&[7; 32]), size: 0, trouble: None };
            let source: Arc<dyn Source> = Arc::<Model>::clone(&model);
            let writer = Writer::new(Fake::default(), Arc::clone(&queue), source, Arc::default(), start);
            Self { model, queue, writer, now: clock::now(), counter: 0, waiting: Vec::new() }
        }

        fn change(&mut self, name: &str) {
            self.counter += 1;
            self.model.0.lock().unwrap().insert(name.to_owned(), self.counter);
            self.queue.append(&Record::OtpUsed { username: name.to_owned(), counter: self.counter });
        }

        fn wait(&mut self) {
            let state = self.model.0.lock().unwrap().clone();
            self.waiting.push((state, self.queue.written()));
        }

        /// A turn some seconds later. Whoever is told that its state is written can rely on it.
        fn turn(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            self.writer.turn(self.now);
            let (there, _) = state(&self.writer.disk.journal);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            self.waiting.retain_mut(|(state, written)| {
                let ready = std::pin::Pin::new(written).poll(&mut context).is_ready();
                if ready {
                    assert!(
                        state.iter().all(|(name, counter)| there.get(name) >= Some(counter)),
                        "{state:?}"
                    );
                }
                !ready
            });
        }

        fn stats(&self) -> StoreStats {
            self.writer.counters.read(&self.queue)
        }

        /// Nothing is missing, nothing is left over.
        fn assert_complete(&self) {
            let (there, whole) = state(&self.writer.disk.journal);
            assert_eq!(there, *self.model.0.lock().unwrap());
            assert_eq!((whole, self.writer.size), (self.writer.disk.journal.len(), whole as u64));
            assert!(self.waiting.is_empty() && !self.stats().failing);
        }
    }

    /// What a journal says, and the length of what is whole in it.
    fn state(journal: &[u8]) -> (BTreeMap<String, u64>, usize) {
        let mut state = BTreeMap::new();
        let Some(mut rest) = journal.get(HEADER_BYTES..) else { return (state, 0) };
        assert_eq!(journal[..HEADER_BYTES], **encode_header(&[7; 32]));
        while let Ok((Record::OtpUsed { username, counter }, left)) = Record::decode(rest) {
            let known = state.entry(username).or_insert(0);
            *known = counter.max(*known);
            rest = left;
        }
        (state, journal.len() - rest.len())
    }

    #[test]
    fn changes_are_written_at_once_and_synced_once_a_second() {
        let mut bench = Bench::new();
        bench.turn(0);
        assert_eq!(bench.writer.disk.journal.len(), HEADER_BYTES);
        let syncs = bench.stats().syncs;
        for _ in 0..10 {
            bench.change("alice");
            bench.wait();
            bench.turn(0);
        }
        bench.assert_complete();
        assert_eq!((bench.stats().records, bench.stats().syncs), (10, syncs));
        assert!(bench.writer.due().is_some());
        bench.turn(1);
        bench.turn(1);
        assert_eq!(bench.stats().syncs, syncs + 1);
        assert_eq!(bench.writer.due(), None);
    }

    #[test]
    fn a_full_disk_costs_nothing_once_there_is_room() {
        let mut bench = Bench::new();
        bench.turn(0);
        bench.change("alice");
        bench.turn(0);
        // Half of a record fits.
        bench.writer.disk.faults.space = Some(11);
        bench.change("bob");
        bench.wait();
        bench.turn(0);
        assert!(bench.stats().failing && bench.waiting.len() == 1);
        let (there, whole) = state(&bench.writer.disk.journal);
        assert_eq!((there.len(), bench.writer.disk.journal.len()), (1, whole + 11));
        // Nothing is tried before it is time, and nothing new gets in front.
        bench.change("carol");
        bench.turn(1);
        assert_eq!(bench.stats().failures, 1);
        bench.turn(5);
        assert_eq!(bench.stats().failures, 2);
        bench.writer.disk.faults = Faults::default();
        bench.turn(5);
        bench.assert_complete();
        assert_eq!((bench.stats().records, bench.stats().dropped), (3, 0));
    }

    #[test]
    fn what_did_not_fit_the_queue_is_in_the_snapshot() {
        let mut bench = Bench::new();
        bench.turn(0);
        bench.writer.disk.faults.write = true;
        for number in 0..20_000 {
            bench.change(&long_name(number));
        }
        bench.wait();
        bench.turn(0);
        bench.turn(5);
        assert!(bench.stats().dropped > 10_000 && bench.stats().failing);
        bench.change("one more");
        bench.writer.disk.faults.write = false;
        bench.turn(5);
        bench.assert_complete();
    }

    #[test]
    fn after_a_failed_sync_the_file_is_written_anew() {
        let mut bench = Bench::new();
        bench.turn(0);
        bench.change("alice");
        bench.turn(0);
        bench.writer.disk.faults.sync = true;
        bench.turn(1);
        assert!(bench.stats().failing && bench.writer.replace);
        bench.change("bob");
        bench.wait();
        bench.writer.disk.faults.sync = false;
        // What the kernel lost without a word.
        bench.writer.disk.journal.truncate(HEADER_BYTES + 3);
        bench.turn(5);
        bench.assert_complete();
    }

    #[test]
    fn a_journal_is_compacted_and_any_moment_of_it_is_a_good_one_to_crash() {
        let mut bench = Bench::new();
        bench.turn(0);
        let mut turns = 0;
        while bench.stats().compactions < 3 {
            for number in 0..1_000 {
                bench.change(&long_name(number));
            }
            bench.wait();
            bench.writer.disk.history.clear();
            bench.turn(0);
            // Once all that waited is appended, no moment shows less.
            let all = bench.model.0.lock().unwrap().clone();
            let since = bench.writer.disk.history.iter().position(|journal| state(journal).0 == all).unwrap();
            let later = &bench.writer.disk.history[since..];
            assert!(later.iter().all(|journal| state(journal).0 == all));
            assert!(bench.stats().size <= COMPACT_ABOVE + 300_000, "{:?}", bench.stats());
            turns += 1;
            assert!(turns < 100);
        }
        bench.assert_complete();
    }

    #[test]
    fn a_compaction_that_fails_leaves_the_journal_at_work() {
        for faults in [
            Faults { create: true, ..Faults::default() },
            Faults { rename: true, ..Faults::default() },
            Faults { sync: true, ..Faults::default() },
        ] {
            let mut bench = Bench::new();
            bench.turn(0);
            bench.writer.disk.faults = faults;
            while bench.stats().size <= COMPACT_ABOVE {
                for number in 0..1_000 {
                    bench.change(&long_name(number));
                }
                bench.wait();
                bench.turn(0);
            }
            assert_eq!((bench.stats().compactions, bench.stats().failures), (0, 1), "{faults:?}");
            bench.change("alice");
            bench.wait();
            bench.turn(0);
            bench.assert_complete();
            bench.writer.disk.faults = Faults::default();
            bench.turn(60);
            assert_eq!(bench.stats().compactions, 1);
            bench.assert_complete();
        }
    }

    #[test]
    fn what_the_directory_may_have_lost_is_written_again() {
        let mut bench = Bench::new();
        bench.writer.disk.faults.directory = true;
        bench.change("alice");
        bench.turn(0);
        assert!(bench.stats().failing && bench.writer.replace);
        bench.writer.disk.faults.directory = false;
        bench.wait();
        bench.turn(5);
        bench.assert_complete();
    }

    #[derive(Debug, Clone)]
    enum Step {
        Change(u8),
        Wait,
        Turn(u64),
        Faults(Faults),
    }

    fn step() -> impl Strategy<Value = Step> {
        let faults = (prop::option::of(0usize..200), prop::option::of(1usize..40), any::<[bool; 6]>());
        let faults = faults.prop_map(|(space, short, [write, sync, truncate, create, rename, directory])| {
            Faults { space, short, write, sync, truncate, create, rename, directory }
        });
        prop_oneof![
            6 => (0u8..5).prop_map(Step::Change),
            2 => Just(Step::Wait),
            4 => (0u64..7).prop_map(Step::Turn),
            1 => faults.prop_map(Step::Faults),
            1 => Just(Step::Faults(Faults::default())),
        ]
    }

    proptest! {
        /// Whatever fails, and when: the file is whole up to what it lacks, who was told can rely on it, and once the disk
        /// works nothing is missing.
        #[test]
        fn a_failing_disk_loses_nothing(steps in prop::collection::vec(step(), 1..80)) {
            let mut bench = Bench::new();
            for step in steps {
                match step {
                    Step::Change(name) => bench.change(&name.to_string()),
                    Step::Wait => bench.wait(),
                    Step::Turn(seconds) => bench.turn(seconds),
                    Step::Faults(faults) => bench.writer.disk.faults = faults,
                }
            }
            bench.writer.disk.faults = Faults::default();
            bench.turn(6);
            bench.turn(6);
            bench.assert_complete();
        }
    }
}
