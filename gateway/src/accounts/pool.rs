//! Threads that compute hashes, and the queue in front of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, available_parallelism};
use std::{io, mem};

use tokio::sync::oneshot;

use super::hash::Hasher;

/// Attempts that wait for each thread. One takes about 30 ms per hash and, as a rule, at most three hashes: the last in the
/// queue is served after 23 s, well within a client's patience (`hand-window`, 60 s).
const QUEUE_PER_THREAD: usize = 256;
/// Threads at most: each keeps the memory of one hash, and 16 of them log in 500 users a second.
const MAX_THREADS: usize = 16;

type Job = Box<dyn FnOnce(&mut Hasher) + Send>;

/// The pool. Dropping it forgets what waits, and returns when what is computed is done.
#[derive(Debug)]
pub(super) struct Pool {
    queue: Option<SyncSender<Job>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Half of the cores: packets come first, and a storm of logins must not starve them.
    pub(super) fn default_threads() -> usize {
        (available_parallelism().map_or(1, usize::from) / 2).clamp(1, MAX_THREADS)
    }

    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let threads = threads.clamp(1, MAX_THREADS);
        let (queue, jobs) = sync_channel(threads * QUEUE_PER_THREAD);
        let (jobs, stop) = (Arc::new(Mutex::new(jobs)), Arc::new(AtomicBool::new(false)));
        let mut pool = Self { queue: Some(queue), stop: Arc::clone(&stop), threads: Vec::new() };
        for n in 0..threads {
            let (jobs, stop) = (Arc::clone(&jobs), Arc::clone(&stop));
            let thread = std::thread::Builder::new()
                .name(format!("passwords-{n}"))
                .spawn(move || serve(&jobs, &stop))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues `work`, and gives its result; `None` when the queue is full, or there never will be one.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Hasher) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move |hasher| {
            // Nobody waits any more: the client has left.
            if !reply.is_closed() {
                let _ = reply.send(work(hasher));
            }
        });
        self.queue.as_ref()?.try_send(job).ok()?;
        result.await.ok()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue = None;
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>, stop: &AtomicBool) {
    let mut hasher = Hasher::default();
    loop {
        // One idle thread waits at the queue, the others at the lock: whoever gets a job gives the lock back first.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        // A fault in one login must not take away a thread from all; its own login gets no answer.
        if catch_unwind(AssertUnwindSafe(|| job(&mut hasher))).is_err() {
            tracing::error!("a login failed by a fault of the gateway");
            hasher = Hasher::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Barrier;
    use std::task::{Context, Waker};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Lets a future begin.
    fn begin<T>(future: Pin<&mut impl Future<Output = T>>) {
        assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[test]
    fn answers_and_survives_a_fault() {
        let pool = Pool::start(1).unwrap();
        block_on(async {
            assert_eq!(pool.run(|_| 7).await, Some(7));
            assert_eq!(pool.run(|_| -> u8 { panic!("a test") }).await, None);
            assert_eq!(pool.run(|_| 8).await, Some(8));
        });
    }

    #[test]
    fn a_full_queue_answers_at_once() {
        let pool = Pool::start(1).unwrap();
        let (started, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        block_on(async {
            let (begun, end) = (Arc::clone(&started), Arc::clone(&release));
            let mut first = Box::pin(pool.run(move |_| {
                begun.wait();
                end.wait();
            }));
            begin(first.as_mut());
            started.wait();
            let mut waiting = Vec::new();
            for n in 0..QUEUE_PER_THREAD {
                let mut next = Box::pin(pool.run(move |_| n));
                begin(next.as_mut());
                waiting.push(next);
            }
            assert_eq!(pool.run(|_| 0).await, None, "full");
            release.wait();
            first.await.unwrap();
            for (n, next) in waiting.into_iter().enumerate() {
                assert_eq!(next.await, Some(n));
            }
        });
    }
}
