//! The three forms of an answer.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;
use tessera_api::{Moment, Reply, Response};
use zeroize::Zeroizing;

use crate::exit::Failure;

/// Form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// One JSON object
    Json,
    /// JSON, one object a line: the entries of a list
    Jsonl,
}

/// Prints an answer; `table` makes the form for people and refuses answers to other questions.
pub(crate) fn show(
    reply: Reply,
    output: Output,
    table: impl FnOnce(&Response, Moment) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let Ok(response) = &reply.result else {
        return Err(Failure::unexpected());
    };
    // Also where it is not printed: it knows which answers belong.
    let text = Zeroizing::new(table(response, reply.now)?);
    match (output, response) {
        (Output::Table, _) => print(text.as_bytes()),
        (Output::Jsonl, Response::Sessions(list)) => print(&lines(list)?),
        (Output::Jsonl, Response::Tokens { tokens, .. }) => print(&lines(tokens)?),
        (Output::Jsonl, Response::Users(list)) => print(&lines(list)?),
        (Output::Json, _) => print(&reply.to_json(true)?),
        (Output::Jsonl, _) => print(&reply.to_json(false)?),
    }
}

/// One object a line.
pub(crate) fn lines<T: Serialize>(list: &[T]) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    for entry in list {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Writes to standard output; a reader that went away is a fault.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(text).and_then(|()| out.flush())?)
}

/// Writes a line to standard error. Where that is closed, the exit code still tells.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "tessera: {message}");
}
