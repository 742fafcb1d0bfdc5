//! What plugins say on standard output and error, and through the log of the interface: into our log, line by line, bounded.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tracing::{debug, error, info, warn};

use crate::clock;
use crate::hooks::printable;

/// Longer lines are cut.
const MAX_LINE: usize = 1024;
/// In each window at most so many lines go to the log; the others are counted. A plugin that logs each login stays below.
const WINDOW: Duration = Duration::from_secs(10);
const LINES_PER_WINDOW: u32 = 1000;

/// Reads until all processes that could write are gone.
pub(super) async fn follow(plugin: Arc<str>, pipe: OwnedFd) {
    let mut pipe = match pipe::Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => return warn!(%plugin, "its output cannot be read: {error}"),
    };
    let mut chunk = [0; 4096];
    let mut lines = Lines::default();
    let mut bound = Bound::new(clock::now());
    while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
        lines.split(&chunk[..n], |line| {
            let (pass, left_out) = bound.admit(clock::now());
            if left_out > 0 {
                warn!(%plugin, "({left_out} lines more are left out)");
            }
            if pass {
                log(&plugin, line);
            }
        });
    }
}

/// A line that begins with `<N>` has the severity N of syslog, as the log of the interface writes it.
fn log(plugin: &str, line: &[u8]) {
    let (severity, text) = match line {
        [b'<', severity @ b'0'..=b'7', b'>', text @ ..] => (*severity, text),
        text => (b'6', text),
    };
    let text = printable(String::from_utf8_lossy(text).trim_end());
    match severity {
        _ if text.is_empty() => {}
        b'0'..=b'3' => error!(%plugin, "{text}"),
        b'4' => warn!(%plugin, "{text}"),
        b'7' => debug!(%plugin, "{text}"),
        _ => info!(%plugin, "{text}"),
    }
}

/// Puts lines together.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn split(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n");
            let room = MAX_LINE.saturating_sub(self.begun.len());
            let kept = text.unwrap_or(part);
            self.begun.extend_from_slice(&kept[..kept.len().min(room)]);
            if text.is_some() {
                each(&self.begun);
                self.begun.clear();
            }
        }
    }
}

/// How much of it all is logged.
struct Bound {
    window: Instant,
    lines: u32,
    left_out: u64,
}

impl Bound {
    const fn new(now: Instant) -> Self {
        Self { window: now, lines: 0, left_out: 0 }
    }

    /// Whether a line passes, and how many before it did not, once their window is over.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.window) >= WINDOW {
            left_out = std::mem::take(&mut self.left_out);
            *self = Self::new(now);
        }
        self.lines += 1;
        if self.lines > LINES_PER_WINDOW {
            self.lines = LINES_PER_WINDOW;
            self.left_out += 1;
            return (false, left_out);
        }
        (true, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_cut() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let long = "x".repeat(MAX_LINE + 100);
        for chunk in ["a", "b\nc\n\nd", long.as_str(), "y\nz"] {
            lines.split(chunk.as_bytes(), |line| got.push(String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(got[..3], ["ab", "c", ""]);
        assert_eq!(got[3].len(), MAX_LINE);
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn a_flood_is_counted() {
        let start = clock::now();
        let mut bound = Bound::new(start);
        let passed = (0..5000).filter(|_| bound.admit(start).0).count();
        assert_eq!(passed, LINES_PER_WINDOW as usize);
        assert_eq!(bound.admit(start + WINDOW), (true, 4000));
        assert_eq!(bound.admit(start + WINDOW), (true, 0));
    }
}
