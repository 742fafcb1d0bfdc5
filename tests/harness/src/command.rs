//! Short-lived helper programs (`ip`, `nft`, `ping`), run to their end within a limit.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::clock::Deadline;

/// No helper program here takes longer in health; one that hangs must not hang the suite.
const LIMIT: Duration = Duration::from_secs(60);

/// What a finished program left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Exit status 0.
    pub(crate) ok: bool,
    /// Standard output, then standard error.
    pub(crate) text: String,
}

/// Runs `argv` to its end. Panics when it cannot be started or takes longer than the limit.
pub(crate) fn try_run(argv: &[&str]) -> Finished {
    feed(argv, "")
}

/// As [`try_run`], with `input` as standard input (a few lines: it must fit a pipe).
pub(crate) fn feed(argv: &[&str], input: &str) -> Finished {
    let (program, args) = argv.split_first().expect("a program");
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {argv:?}: {error}"));
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ended without reading says why in its output.
        let _ = pipe.write_all(input.as_bytes());
    }
    let out = drain(child.stdout.take().expect("piped"));
    let err = drain(child.stderr.take().expect("piped"));
    let deadline = Deadline::after(LIMIT);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for an own child") {
            break status;
        }
        if deadline.passed() {
            child.kill().expect("kill an own child");
            child.wait().expect("reap an own child");
            panic!("{argv:?} did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut text = out.join().expect("reader");
    text.push_str(&err.join().expect("reader"));
    Finished { ok: status.success(), text }
}

/// Runs `argv` to its end and gives its output. Panics with that output on a bad exit status.
pub(crate) fn run(argv: &[&str]) -> String {
    let finished = try_run(argv);
    assert!(finished.ok, "{argv:?} failed: {}", finished.text);
    finished.text
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe only means that the program ended; what was read so far counts.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
