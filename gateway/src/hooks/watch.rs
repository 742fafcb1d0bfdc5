//! Tells who waits for a file in the hook directory that it has changed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{HookDir, HookFile};

/// How often a file is looked at of which nothing is heard: for writers that keep it open, for events that were lost, and for
/// systems that have run out of watches. Each look costs some microseconds.
const RECHECK: Duration = Duration::from_secs(2);

/// Why to look at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Somebody has written it and closed it, or put another in its place.
    Changed,
    /// It is time to look anyway.
    Recheck,
}

/// One watch on the directory, and who waits for which file in it. As many wait as there are deferrals, which are counted.
#[derive(Debug)]
pub(super) struct Watcher {
    dir: Arc<HookDir>,
    waiters: Mutex<HashMap<OsString, Arc<Notify>>>,
}

impl Watcher {
    pub(super) fn new(dir: Arc<HookDir>) -> Arc<Self> {
        Arc::new(Self { dir, waiters: Mutex::default() })
    }

    /// The directory that is watched.
    pub(super) const fn dir(&self) -> &Arc<HookDir> {
        &self.dir
    }

    /// Wakes for these files until what is returned is dropped.
    pub(super) fn watch<const N: usize>(self: &Arc<Self>, files: [&HookFile; N]) -> Watched {
        let notify = Arc::new(Notify::new());
        let names: Vec<OsString> =
            files.iter().filter_map(|file| Some(file.path().file_name()?.into())).collect();
        self.waiters(|waiters| {
            for name in &names {
                waiters.insert(name.clone(), Arc::clone(&notify));
            }
        });
        Watched { watcher: Arc::clone(self), names, notify }
    }

    /// Hands out what the kernel reports, for ever. Where it cannot report, files are still looked at now and then.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut complained = false;
        loop {
            match Events::open(self.dir.path()) {
                Ok(events) => {
                    if std::mem::take(&mut complained) {
                        info!("the hook directory is watched again");
                    }
                    // What happened before is in no event.
                    self.wake_all();
                    if self.hand_out(&events).await.is_ok() {
                        // There may be a new directory already.
                        continue;
                    }
                }
                Err(error) if complained => drop(error),
                Err(error) => {
                    complained = true;
                    let seconds = RECHECK.as_secs();
                    warn!(
                        "the hook directory cannot be watched ({error}): deferred answers are noticed within {seconds} s"
                    );
                }
            }
            sleep(RECHECK).await;
        }
    }

    /// Returns when the watch has come to its end, because the directory was taken away or (an error) for another reason.
    async fn hand_out(&self, events: &Events) -> io::Result<()> {
        loop {
            let batch = events
                .next()
                .await
                .inspect_err(|error| warn!("the hook directory is not watched: {error}"))?;
            for event in batch {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    info!("the hook directory was taken away");
                    return Ok(());
                }
                match &event.name {
                    Some(name) => self.happened(name, event.mask),
                    None => self.wake_all(),
                }
            }
        }
    }

    fn happened(&self, name: &OsStr, mask: AddWatchFlags) {
        let waiter = self.waiters(|waiters| waiters.get(name).cloned());
        match waiter {
            Some(waiter) if !mask.contains(AddWatchFlags::IN_CREATE) => waiter.notify_one(),
            Some(_) => {}
            None => self.dir.remove_orphan(name),
        }
    }

    fn wake_all(&self) {
        self.waiters(|waiters| waiters.values().for_each(|waiter| waiter.notify_one()));
    }

    fn waiters<T>(&self, act: impl FnOnce(&mut HashMap<OsString, Arc<Notify>>) -> T) -> T {
        act(&mut self.waiters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Somebody waits for some files for as long as this lives.
#[derive(Debug)]
pub(super) struct Watched {
    watcher: Arc<Watcher>,
    names: Vec<OsString>,
    notify: Arc<Notify>,
}

impl Watched {
    /// Waits for a reason to look. A change between two calls is not lost.
    pub(super) async fn wake(&self) -> Wake {
        match timeout(RECHECK, self.notify.notified()).await {
            Ok(()) => Wake::Changed,
            Err(_) => Wake::Recheck,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.waiters(|waiters| {
            for name in &self.names {
                waiters.remove(name);
            }
        });
    }
}

/// An inotify instance on one directory.
struct Events(AsyncFd<Instance>);

struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Events {
    fn open(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let kinds = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        inotify.add_watch(path, kinds | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW)?;
        // SAFETY: the instance keeps its descriptor open and the same for as long as it lives, and the `AsyncFd` owns it.
        let watched = unsafe { AsyncFd::register_with_interest(Instance(inotify), Interest::READABLE) };
        Ok(Self(watched.map_err(io::Error::from)?))
    }

    async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        self.0.async_io(Interest::READABLE, |instance| Ok(instance.0.read_events()?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SOON: Duration = Duration::from_millis(1500);

    #[tokio::test]
    async fn wakes_who_waits_and_survives_the_loss_of_its_directory() {
        let parent = tempfile::tempdir().unwrap();
        let dir = HookDir::create(parent.path()).unwrap();
        let watcher = Watcher::new(Arc::clone(&dir));
        let driver = tokio::spawn(Arc::clone(&watcher).drive());
        let (one, two) = (dir.file("deferred", b"").unwrap(), dir.file("deferred", b"").unwrap());
        let (first, second) = (watcher.watch([&one]), watcher.watch([&two]));
        // The beginning of the watch wakes all.
        timeout(SOON, async { (first.wake().await, second.wake().await) }).await.unwrap();
        let late = {
            let gone = dir.file("deferred", b"").unwrap();
            gone.path().to_owned()
        };
        fs::write(&late, "1").unwrap();
        fs::write(one.path(), "1").unwrap();
        assert_eq!(timeout(SOON, first.wake()).await.unwrap(), Wake::Changed);
        assert!(!late.exists(), "its event came first");
        let new = dir.path().join("x");
        fs::write(&new, "2").unwrap();
        fs::rename(&new, one.path()).unwrap();
        assert_eq!(timeout(SOON, first.wake()).await.unwrap(), Wake::Changed, "moved into its place");
        assert_eq!(second.wake().await, Wake::Recheck, "nothing for the other, which looks all the same");
        drop(first);
        assert_eq!(watcher.waiters(|waiters| waiters.len()), 1);

        fs::remove_dir_all(dir.path()).unwrap();
        let three = dir.file("deferred", b"").unwrap();
        let third = watcher.watch([&three]);
        let woken = timeout(3 * RECHECK, async { while third.wake().await != Wake::Changed {} }).await;
        assert!(woken.is_ok(), "the new directory is watched");
        fs::write(three.path(), "1").unwrap();
        assert_eq!(timeout(SOON, third.wake()).await.unwrap(), Wake::Changed);
        driver.abort();
    }
}
