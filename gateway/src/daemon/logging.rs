//! The log: one line an event, to standard error or a file.

use std::fs::OpenOptions;
use std::io;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, Process};

/// Starts logging for the whole process.
///
/// # Errors
/// When the log file cannot be opened.
pub(super) fn start(process: &Process) -> io::Result<()> {
    let level = match process.verb {
        0 => LevelFilter::ERROR,
        1..=3 => LevelFilter::INFO,
        4..=6 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let builder = fmt().with_max_level(level).with_target(false).with_ansi(false);
    let file = match &process.log {
        Log::Stderr => None,
        Log::File(path) => Some(OpenOptions::new().write(true).create(true).truncate(true).open(path)?),
        Log::Append(path) => Some(OpenOptions::new().append(true).create(true).open(path)?),
    };
    // A second start in one process (tests) keeps the first log.
    let _ = match (file, process.suppress_timestamps) {
        (Some(file), true) => builder.with_writer(Mutex::new(file)).without_time().try_init(),
        (Some(file), false) => builder.with_writer(Mutex::new(file)).try_init(),
        (None, true) => builder.with_writer(io::stderr).without_time().try_init(),
        (None, false) => builder.with_writer(io::stderr).try_init(),
    };
    Ok(())
}
