//! One connection: a request, its answer, the next request.

use std::io;
use std::time::Duration;

use tessera_api::{ApiError, ErrorCode, MAX_REQUEST, Reply, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Backend, Peer};
use crate::clock;

/// How long a client may take to its first byte: programs write at once.
const FIRST_BYTE: Duration = Duration::from_secs(2);
/// How long the rest of a request may take: it is at most a few reads.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a client may be silent between requests: long enough for a tool that looks every ten seconds.
const IDLE: Duration = Duration::from_secs(30);
/// How long the backend may take. The longest request waits for session shards and one password hash.
const HANDLE: Duration = Duration::from_secs(30);
/// How long a client may take to read an answer: one that does not read holds memory.
const ANSWER: Duration = Duration::from_secs(10);

/// Serves a peer that may ask, until it hangs up or breaks a rule. Of long answers, `lists` limits how many there are at a time.
pub(super) async fn converse(mut stream: UnixStream, peer: Peer, backend: &impl Backend, lists: &Semaphore) {
    let mut input = Input::new();
    let mut patience = FIRST_BYTE;
    loop {
        let fault = match input.next(&mut stream, patience).await {
            Ok(None) => return,
            Ok(Some(line)) => {
                let request = Request::parse(line);
                input.consume();
                // A long answer counts until it is written.
                let _turn = match &request {
                    Ok(request) if request.is_list() => lists.acquire().await.ok(),
                    _ => None,
                };
                let answer = match request {
                    Ok(request) => ask(backend, request, peer).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = write(&mut stream, answer).await {
                    return debug!("admin: {peer}: the answer was not read: {error}");
                }
                patience = IDLE;
                continue;
            }
            Err(Fault::TooLarge) => {
                ApiError::new(ErrorCode::TooLarge, format!("a request has at most {MAX_REQUEST} bytes"))
            }
            Err(Fault::Silent) => ApiError::new(ErrorCode::Timeout, "no request came in time"),
            Err(Fault::Slow) => ApiError::new(ErrorCode::Timeout, "the request did not end in time"),
            Err(Fault::Io(error)) => return debug!("admin: {peer}: {error}"),
        };
        debug!("admin: {peer}: {fault}");
        // It may be gone already.
        let _ = write(&mut stream, Err(fault)).await;
        return;
    }
}

/// Has a request done, and logs changes.
async fn ask(backend: &impl Backend, request: Request, peer: Peer) -> Result<Response, ApiError> {
    // Secrets print as nothing; names print with escapes.
    let change = request.is_change().then(|| format!("{request:?}"));
    let method = request.method();
    let result = match timeout(HANDLE, backend.handle(request, peer)).await {
        Ok(result) => result,
        Err(_) => {
            warn!("admin: {method}: given up after {} s", HANDLE.as_secs());
            let message = "the gateway did not do it in time; parts of it may be done";
            Err(ApiError::new(ErrorCode::Timeout, message))
        }
    };
    let (uid, pid) = (peer.uid, peer.pid);
    match (change, &result) {
        (Some(change), Ok(Response::Changes(changes))) => info!(
            uid,
            pid,
            change,
            sessions = changes.sessions,
            tokens = changes.tokens,
            users = changes.users,
            "admin: done"
        ),
        (Some(change), Ok(_)) => info!(uid, pid, change, "admin: done"),
        (Some(change), Err(error)) => warn!(uid, pid, change, error = error.message, "admin: not done"),
        (None, _) => debug!(uid, pid, method, "admin"),
    }
    result
}

/// Writes an answer, one line after the other: no more than one is in memory.
async fn write(stream: &mut UnixStream, result: Result<Response, ApiError>) -> io::Result<()> {
    let now = tessera_api::Moment(clock::unix_seconds());
    let lines = Reply::lines(now, result);
    let all = async {
        for line in lines {
            stream.write_all(&line.map_err(io::Error::other)?).await?;
        }
        Ok(())
    };
    timeout(ANSWER, all).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Why there is no request.
enum Fault {
    Silent,
    Slow,
    TooLarge,
    Io(io::Error),
}

/// What was read and not consumed. Its room never grows, so that no copy of a secret is left behind.
struct Input {
    bytes: Zeroizing<Vec<u8>>,
    filled: usize,
    /// Length of the line that was handed out.
    line: usize,
}

impl Input {
    fn new() -> Self {
        // One more for the end of the line.
        Self { bytes: Zeroizing::new(vec![0; MAX_REQUEST + 1]), filled: 0, line: 0 }
    }

    /// The next line without its end, waiting at most `patience` for its first byte; `None` at the end of the stream. What
    /// stands there without an end of line is a line, too: JSON tells whether it is whole.
    async fn next(&mut self, stream: &mut UnixStream, patience: Duration) -> Result<Option<&[u8]>, Fault> {
        if self.filled == 0 {
            let read = timeout(patience, self.fill(stream)).await.map_err(|_| Fault::Silent)?;
            if !read? {
                return Ok(None);
            }
        }
        let rest = async {
            let mut seen = 0;
            loop {
                if let Some(at) = self.bytes[seen..self.filled].iter().position(|byte| *byte == b'\n') {
                    return Ok(seen + at);
                }
                seen = self.filled;
                if seen == self.bytes.len() {
                    return Err(Fault::TooLarge);
                }
                if !self.fill(stream).await? {
                    return Ok(seen);
                }
            }
        };
        let line = timeout(REQUEST, rest).await.map_err(|_| Fault::Slow)??;
        self.line = line;
        Ok(Some(&self.bytes[..line]))
    }

    /// Reads once; whether there was something.
    async fn fill(&mut self, stream: &mut UnixStream) -> Result<bool, Fault> {
        let read = stream.read(&mut self.bytes[self.filled..]).await.map_err(Fault::Io)?;
        self.filled += read;
        Ok(read > 0)
    }

    /// Wipes the line that was handed out.
    fn consume(&mut self) {
        let end = (self.line + 1).min(self.filled);
        self.bytes.copy_within(end..self.filled, 0);
        let left = self.filled - end;
        self.bytes[left..self.filled].zeroize();
        (self.filled, self.line) = (left, 0);
    }
}
