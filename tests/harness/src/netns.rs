//! A named network namespace of our own.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};

use crate::command::{Finished, run, try_run};

/// Prefix of every namespace made here; the id of the making process follows, so leftovers can be told from live ones.
const PREFIX: &str = "tessera-e2e-";

/// A network namespace, deleted on drop (with every interface in it).
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one with loopback up. `role` only makes its name readable.
    #[must_use]
    pub fn new(role: &str) -> Self {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let this = Self { name };
        this.ip("link set lo up");
        this
    }

    /// The name as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip ARGS` (words separated by blanks) inside, and gives its output.
    pub fn ip(&self, args: &str) -> String {
        let mut argv = vec!["ip", "-n", &self.name];
        argv.extend(args.split_whitespace());
        run(&argv)
    }

    /// Runs a program to its end inside, and gives its output. Panics on a bad exit.
    pub fn run(&self, argv: &[&str]) -> String {
        run(&self.entering(argv))
    }

    /// Runs a program to its end inside.
    pub(crate) fn try_run(&self, argv: &[&str]) -> Finished {
        try_run(&self.entering(argv))
    }

    /// Runs `work` on a thread of its own that has entered the namespace: sockets made there belong to it for ever.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::spawn(move || {
            let file = File::open(&path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter a namespace of our own (needs root)");
            work()
        })
    }

    /// As [`Namespace::spawn`], waiting for the result.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// `argv` behind what enters the namespace. The program replaces the helpers, so it keeps the process id, and it is
    /// killed by the kernel should the test's thread vanish.
    pub(crate) fn entering<'a>(&'a self, argv: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["ip", "netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL"];
        all.extend_from_slice(argv);
        all
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Panicking inside a drop would hide the test's own failure; a leftover is swept by the next run.
        let _ = try_run(&["ip", "netns", "del", &self.name]);
    }
}

/// Deletes namespaces of earlier runs whose process is gone (a run that was killed cannot clean up).
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse().ok());
        if owner.is_some_and(|pid: u32| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = try_run(&["ip", "netns", "del", &name]);
        }
    }
}
