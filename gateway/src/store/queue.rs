//! Between whoever changes something and the thread that writes it.

use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::record::Record;

/// Most bytes that wait for the disk: some 25,000 logins. Above it they are given up, and a snapshot of everything
/// takes their place as soon as the disk takes it.
pub const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// Most callers that wait for the disk. Each has a limit of its own; more than this are told at once that it is not
/// written.
const MAX_WAITING: usize = 16 * 1024;

/// Resolves to whether all that was appended before was handed to the kernel: `false` when it was not and the gateway
/// has stopped, or too many wait. It needs no runtime. Give it a short limit: while the disk fails it waits.
#[derive(Debug)]
pub struct Written(Inner);

#[derive(Debug)]
enum Inner {
    Known(bool),
    Waiting(oneshot::Receiver<()>),
}

impl Written {
    pub(super) const fn known(written: bool) -> Self {
        Self(Inner::Known(written))
    }
}

impl Future for Written {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        match &mut self.0 {
            Inner::Known(written) => Poll::Ready(*written),
            Inner::Waiting(receiver) => Pin::new(receiver).poll(context).map(|result| result.is_ok()),
        }
    }
}

/// Records on their way, as they will stand in the file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) records: u64,
    /// Number of its last record.
    pub(super) last: u64,
}

/// What the writer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wake {
    /// The gateway stops.
    pub(super) stop: bool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<State>,
    changed: Condvar,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// Number of the last record that was appended.
    appended: u64,
    /// All up to this one are with the kernel.
    written: u64,
    waiters: Vec<(u64, oneshot::Sender<()>)>,
    /// What is appended is not kept: a snapshot that is still to be begun will hold it.
    skip: bool,
    dropped: u64,
    /// Looked at before each sleep, so that no wake is lost.
    awake: bool,
    stop: bool,
    finished: bool,
}

impl Queue {
    /// Puts a record in the queue. Never waits for the disk. Whatever the record says must be in force already, since
    /// a snapshot may stand for it.
    pub(super) fn append(&self, record: &Record) {
        let mut state = self.lock();
        if state.skip {
            state.appended += 1;
            state.dropped += 1;
        } else if record.encode(&mut state.waiting.bytes) {
            state.appended += 1;
            state.waiting.records += 1;
            state.waiting.last = state.appended;
            if state.waiting.bytes.len() > MAX_QUEUED_BYTES {
                state.give_up();
            }
        } else {
            state.dropped += 1;
            tracing::error!("a record with a name that is too long was not written");
        }
        state.awake = true;
        drop(state);
        self.changed.notify_one();
    }

    /// When all that was appended so far is with the kernel.
    pub(super) fn written(&self) -> Written {
        let mut state = self.lock();
        if state.appended == state.written {
            return Written::known(true);
        }
        if state.finished {
            return Written::known(false);
        }
        if state.waiters.len() >= MAX_WAITING {
            state.waiters.retain(|(_, sender)| !sender.is_closed());
            if state.waiters.len() >= MAX_WAITING {
                return Written::known(false);
            }
        }
        let (sender, receiver) = oneshot::channel();
        let appended = state.appended;
        state.waiters.push((appended, sender));
        Written(Inner::Waiting(receiver))
    }

    /// What waits now.
    pub(super) fn take(&self) -> Batch {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Whether records were given up, so that only a snapshot helps.
    pub(super) fn has_given_up(&self) -> bool {
        self.lock().skip
    }

    /// A snapshot begins: it holds all that was appended so far, up to the number that comes back.
    pub(super) fn begin_snapshot(&self) -> u64 {
        let mut state = self.lock();
        state.waiting = Batch::default();
        state.skip = false;
        state.appended
    }

    /// Only a new snapshot helps: what waits is given up, and what comes is not kept, until it begins.
    pub(super) fn give_up(&self) {
        self.lock().give_up();
    }

    /// All up to `last` are with the kernel.
    pub(super) fn confirm(&self, last: u64) {
        let mut state = self.lock();
        state.written = state.written.max(last);
        for (_, sender) in state.waiters.extract_if(.., |(number, _)| *number <= last) {
            // Who waited may have gone.
            let _ = sender.send(());
        }
    }

    /// Records that were given up for a snapshot.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().waiting.bytes.len()
    }

    /// The writer sleeps until something is appended, the gateway stops or `most` is over.
    pub(super) fn sleep(&self, most: Option<Duration>, heed_records: bool) -> Wake {
        let mut state = self.lock();
        let done = |state: &mut State| !(state.stop || heed_records && state.awake);
        state = match most {
            Some(most) => {
                let woken = self.changed.wait_timeout_while(state, most, done);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, done).unwrap_or_else(PoisonError::into_inner),
        };
        state.awake = false;
        Wake { stop: state.stop }
    }

    /// Asks the writer to finish, and waits for that, but no longer than `most`; whether it did.
    pub(super) fn stop(&self, most: Duration) -> bool {
        let mut state = self.lock();
        state.stop = true;
        self.changed.notify_one();
        let waited = self.finished.wait_timeout_while(state, most, |state| !state.finished);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.finished
    }

    /// The writer has gone. Who still waits is told.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.finished = true;
        state.waiters.clear();
        drop(state);
        self.finished.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_up(&mut self) {
        self.dropped += self.waiting.records;
        self.waiting = Batch::default();
        self.skip = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(counter: u64) -> Record {
        Record::OtpUsed { username: "alice".into(), counter }
    }

    fn is_ready(written: &mut Written) -> Option<bool> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(written).poll(&mut context) {
            Poll::Ready(ready) => Some(ready),
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_waits_learns_of_its_own_record() {
        let queue = Queue::default();
        assert_eq!(is_ready(&mut queue.written()), Some(true), "nothing to wait for");
        queue.append(&record(1));
        let mut first = queue.written();
        queue.append(&record(2));
        let mut second = queue.written();
        let batch = queue.take();
        assert_eq!((batch.records, batch.last), (2, 2));
        queue.confirm(1);
        assert_eq!((is_ready(&mut first), is_ready(&mut second)), (Some(true), None));
        queue.confirm(2);
        assert_eq!(is_ready(&mut second), Some(true));
        queue.append(&record(3));
        let mut third = queue.written();
        queue.finish();
        assert_eq!((is_ready(&mut third), is_ready(&mut queue.written())), (Some(false), Some(false)));
    }

    #[test]
    fn what_is_too_much_is_left_to_a_snapshot() {
        let queue = Queue::default();
        let mut appended = 0;
        while !queue.has_given_up() {
            queue.append(&record(appended));
            appended += 1;
            assert!(queue.waiting_bytes() <= MAX_QUEUED_BYTES);
        }
        assert_eq!(queue.dropped(), appended);
        let mut written = queue.written();
        queue.append(&record(0));
        assert_eq!((queue.take().records, queue.dropped()), (0, appended + 1));
        let last = queue.begin_snapshot();
        queue.append(&record(1));
        assert_eq!((last, queue.take().records), (appended + 1, 1));
        queue.confirm(last);
        assert_eq!(is_ready(&mut written), Some(true));
    }

    #[test]
    fn waiters_are_bounded() {
        let queue = Queue::default();
        queue.append(&record(1));
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| queue.written()).collect();
        assert_eq!(is_ready(&mut queue.written()), Some(false));
        waiting.pop();
        assert_eq!(is_ready(&mut queue.written()), None);
    }

    #[test]
    fn a_sleep_ends_with_a_record() {
        let queue = Queue::default();
        assert_eq!(queue.sleep(Some(Duration::from_millis(1)), true), Wake { stop: false });
        queue.append(&record(1));
        assert_eq!(queue.sleep(None, true), Wake { stop: false });
        assert!(!queue.stop(Duration::from_millis(1)));
        assert_eq!(queue.sleep(None, false), Wake { stop: true });
    }
}
