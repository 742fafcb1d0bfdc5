//! A long-running program whose log the test waits on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::{Deadline, eventually, pause};
use crate::netns::Namespace;

/// How long a program may take to end after SIGTERM before it is killed. Stock OpenVPN waits 2 s when it notifies.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How much of a log a failure prints: enough for the story of one test, not for a debug flood.
const REPORT_BYTES: usize = 24 * 1024;

/// A process in a namespace, its output in a file. Ended on drop; its log is printed when the test is panicking.
#[derive(Debug)]
pub struct Process {
    title: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `argv` in `ns`; standard output and error go to the file `log`.
    pub fn start(title: &str, ns: &Namespace, argv: &[&str], log: &Path) -> Self {
        let file = File::create(log).unwrap_or_else(|e| panic!("cannot create {}: {e}", log.display()));
        let all = ns.entering(argv);
        let child = Command::new(all.first().expect("a program"))
            .args(all.get(1..).expect("its arguments"))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {title}: {e}"));
        Self { title: title.to_owned(), child, log: log.to_owned(), status: None }
    }

    /// Everything logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_else(|e| panic!("no log {}: {e}", self.log.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A position in the log, for [`Process::wait_from`]: now.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// Waits for a line that contains all `parts` (in any order) and gives that line.
    pub fn wait_for(&mut self, parts: &[&str], limit: Duration) -> String {
        self.wait_from(0, parts, limit)
    }

    /// As [`Process::wait_for`], in what was logged after `mark`. Panics as soon as the process has ended without it.
    pub fn wait_from(&mut self, mark: usize, parts: &[&str], limit: Duration) -> String {
        let deadline = Deadline::after(limit);
        loop {
            // The end is looked at first: a line written just before it must still be found.
            let ended = self.ended();
            let log = self.log();
            if let Some(line) = find(log.get(mark..).unwrap_or_default(), parts) {
                return line.to_owned();
            }
            assert!(ended.is_none(), "{}: ended ({ended:?}) without logging {parts:?}", self.title);
            assert!(!deadline.passed(), "{}: no line with {parts:?} within {limit:?}", self.title);
            pause(Duration::from_millis(20));
        }
    }

    /// True if a line with all `parts` was logged.
    #[must_use]
    pub fn logged(&self, parts: &[&str]) -> bool {
        find(&self.log(), parts).is_some()
    }

    /// How many lines contain `part`.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.log().lines().filter(|line| line.contains(part)).count()
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|e| panic!("{}: cannot send {signal}: {e}", self.title));
    }

    /// Exit status if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for an own child");
        }
        self.status
    }

    /// Waits for the end.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("end of {}", self.title);
        eventually(&what, limit, || self.ended())
    }

    /// SIGTERM and waits for the end; panics when that takes too long.
    pub fn stop(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        self.wait_end(STOP_LIMIT)
    }

    /// SIGKILL: no farewell of any kind.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.wait_end(STOP_LIMIT);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive i32"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&self.title, &self.log);
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let deadline = Deadline::after(STOP_LIMIT);
            while self.child.try_wait().is_ok_and(|status| status.is_none()) {
                if deadline.passed() {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break;
                }
                pause(Duration::from_millis(5));
            }
        }
    }
}

fn find<'a>(log: &'a str, parts: &[&str]) -> Option<&'a str> {
    log.lines().find(|line| parts.iter().all(|part| line.contains(part)))
}

/// Prints the end of a log, for the reader of a failed test.
pub(crate) fn report(title: &str, log: &Path) {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text =
        String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(REPORT_BYTES)..).unwrap_or_default());
    #[expect(clippy::print_stderr, reason = "the test harness shows this for failed tests only")]
    {
        eprintln!("──── log of {title} ────\n{text}");
    }
}
