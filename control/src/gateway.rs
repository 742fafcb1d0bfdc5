//! The gateway at the other end of its admin socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use tessera_api::{Reply, Request};
use zeroize::Zeroizing;

use crate::exit::{self, Failure};

/// How long the gateway may be silent: longer than it gives itself.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long it may take to read a request.
const WRITE: Duration = Duration::from_secs(10);
/// Longest line of an answer. The gateway cuts lists; only metrics come in one piece.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// Where the gateway is asked.
#[derive(Debug)]
pub(crate) struct Gateway {
    socket: PathBuf,
}

impl Gateway {
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks, and reads the whole answer: the outcome in it is always `Ok`.
    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        request.validate()?;
        let stream = UnixStream::connect(&self.socket).map_err(|error| self.no_connection(&error))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(WRITE))?;
        match (&stream).write_all(&request.line()?) {
            // It hung up without reading, and may have said why.
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(self.lost(&error));
            }
            _ => {}
        }
        let mut reader = BufReader::new(&stream);
        let mut whole: Option<Reply> = None;
        loop {
            let mut part = self.line(&mut reader)?;
            let content = part.result?;
            let last = !part.more;
            match &mut whole {
                None => {
                    part.result = Ok(content);
                    whole = Some(part);
                }
                Some(Reply { result, .. }) => {
                    if !result.as_mut().is_ok_and(|head| head.extend(content)) {
                        return Err(Failure::unexpected());
                    }
                }
            }
            if last && let Some(mut reply) = whole {
                reply.more = false;
                return Ok(reply);
            }
        }
    }

    fn line(&self, reader: &mut impl BufRead) -> Result<Reply, Failure> {
        let mut line = Zeroizing::new(Vec::with_capacity(4096));
        reader.take(MAX_LINE).read_until(b'\n', &mut line).map_err(|error| self.lost(&error))?;
        if !line.ends_with(b"\n") {
            return Err(self.lost(&io::Error::other("it hung up before the end of its answer")));
        }
        Reply::parse(&line).map_err(|message| Failure::new(exit::FAILED, message))
    }

    fn no_connection(&self, error: &io::Error) -> Failure {
        let (code, hint) = match error.kind() {
            ErrorKind::NotFound => (
                exit::UNREACHABLE,
                "; is tesserad running, and is this its socket (--socket, TESSERA_SOCKET)?",
            ),
            ErrorKind::ConnectionRefused => (exit::UNREACHABLE, "; the gateway that made it is gone"),
            ErrorKind::PermissionDenied => (exit::REFUSED, "; only root and its group may use it"),
            _ => (exit::UNREACHABLE, ""),
        };
        Failure::new(code, format!("socket {}: {error}{hint}", self.socket.display()))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let message = match error.kind() {
            // A read that ran into its limit.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "the gateway does not answer".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(exit::UNREACHABLE, format!("socket {}: {message}", self.socket.display()))
    }
}
