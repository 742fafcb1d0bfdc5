//! What the gateway answers.

use std::vec::IntoIter;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{API_VERSION, ApiError, Credentials, Moment, Rotation, Session, Status, Token, User};

/// Most entries of a list in one line: about 150 KiB.
pub const ENTRIES_PER_LINE: usize = 256;
/// Room for a line with secrets, so that no copy is left behind by growing.
const ROOM: usize = 4096;

/// The outcome of a request that was done.
#[derive(Debug, Clone)]
pub enum Response {
    /// Of `session.list` and `session.show`.
    Sessions(Vec<Session>),
    /// Of `token.list`.
    Tokens {
        /// The page.
        tokens: Vec<Token>,
        /// The `after` of the next page; nothing after the last one.
        next: Option<String>,
    },
    /// Of `user.list`.
    Users(Vec<User>),
    /// Of `session.kill`, `token.revoke`, `user.remove`, `user.lock` and `user.unlock`.
    Changes(Changes),
    /// Of `user.add`, `user.otp` and `user.password`.
    Credentials(Credentials),
    /// Of `token.rotate_secret`.
    Rotation(Rotation),
    /// Of `status`.
    Status(Box<Status>),
    /// Of `metrics`: the Prometheus text format.
    Metrics(String),
}

/// How much was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changes {
    /// Sessions that were ended.
    pub sessions: u64,
    /// Tokens that were killed, as far as they can be counted: those that the gateway made and did not keep are not.
    pub tokens: u64,
    /// Users that were removed, locked or unlocked.
    pub users: u64,
}

/// One line of an answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The gateway's clock.
    pub now: Moment,
    /// More lines of the same answer follow.
    pub more: bool,
    /// The outcome, or a part of it.
    pub result: Result<Response, ApiError>,
}

/// The lines of an answer; see [`Reply::lines`].
#[derive(Debug)]
pub struct ReplyLines {
    now: Moment,
    rest: Option<Rest>,
}

/// What was not written yet.
#[derive(Debug)]
enum Rest {
    Sessions(IntoIter<Session>),
    Tokens(IntoIter<Token>, Option<String>),
    Users(IntoIter<User>),
    Whole(Result<Response, ApiError>),
}

/// A line as it is written: exactly one of the optional roots is there, `next` beside `tokens`.
#[derive(Serialize, Deserialize)]
struct Line {
    api_version: u32,
    now: Moment,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<Session>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<Token>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users: Option<Vec<User>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changes: Option<Changes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<Credentials>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<Rotation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Box<Status>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

/// The version alone, which every version of the contract has.
#[derive(Deserialize)]
struct Version {
    api_version: u32,
}

impl Reply {
    /// The lines of an answer, each with its end and at most [`ENTRIES_PER_LINE`] entries; at least one.
    #[must_use]
    pub fn lines(now: Moment, result: Result<Response, ApiError>) -> ReplyLines {
        let rest = match result {
            Ok(Response::Sessions(list)) => Rest::Sessions(list.into_iter()),
            Ok(Response::Tokens { tokens, next }) => Rest::Tokens(tokens.into_iter(), next),
            Ok(Response::Users(list)) => Rest::Users(list.into_iter()),
            whole => Rest::Whole(whole),
        };
        ReplyLines { now, rest: Some(rest) }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// One line for people: it is not an answer, or one of another version of the contract.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let version: Version =
            serde_json::from_slice(line).map_err(|error| format!("not an answer of the gateway: {error}"))?;
        if version.api_version != API_VERSION {
            let theirs = version.api_version;
            return Err(format!("the gateway speaks version {theirs} of the contract, not {API_VERSION}"));
        }
        let line: Line =
            serde_json::from_slice(line).map_err(|error| format!("not an answer of the gateway: {error}"))?;
        let (now, more) = (line.now, line.more);
        let result = line.result().ok_or("an answer of the gateway without a content that is known here")?;
        Ok(Self { now, more, result })
    }

    /// The reply as one object, however long.
    ///
    /// # Errors
    /// Never; the signature is that of the serializer.
    pub fn to_json(self, pretty: bool) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
        let content = Line::new(self.now, self.more, self.result);
        if pretty {
            serde_json::to_writer_pretty(&mut *line, &content)?;
        } else {
            serde_json::to_writer(&mut *line, &content)?;
        }
        line.push(b'\n');
        Ok(line)
    }
}

impl Iterator for ReplyLines {
    type Item = Result<Zeroizing<Vec<u8>>, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let part = match self.rest.take()? {
            Rest::Sessions(mut list) => {
                let part = some(&mut list);
                self.rest = (list.len() > 0).then_some(Rest::Sessions(list));
                Ok(Response::Sessions(part))
            }
            Rest::Users(mut list) => {
                let part = some(&mut list);
                self.rest = (list.len() > 0).then_some(Rest::Users(list));
                Ok(Response::Users(part))
            }
            Rest::Tokens(mut list, next) => {
                let tokens = some(&mut list);
                if list.len() > 0 {
                    self.rest = Some(Rest::Tokens(list, next));
                    Ok(Response::Tokens { tokens, next: None })
                } else {
                    Ok(Response::Tokens { tokens, next })
                }
            }
            Rest::Whole(whole) => whole,
        };
        Some(Reply { now: self.now, more: self.rest.is_some(), result: part }.to_json(false))
    }
}

/// As many as fit a line.
fn some<T>(list: &mut IntoIter<T>) -> Vec<T> {
    list.by_ref().take(ENTRIES_PER_LINE).collect()
}

impl Response {
    /// Adds the next part of the same answer; whether it was one.
    #[must_use]
    pub fn extend(&mut self, part: Self) -> bool {
        match (self, part) {
            (Self::Sessions(list), Self::Sessions(part)) => list.extend(part),
            (Self::Users(list), Self::Users(part)) => list.extend(part),
            (Self::Tokens { tokens, next }, Self::Tokens { tokens: part, next: end }) => {
                tokens.extend(part);
                *next = end;
            }
            _ => return false,
        }
        true
    }
}

impl Line {
    fn new(now: Moment, more: bool, result: Result<Response, ApiError>) -> Self {
        let mut line = Self {
            api_version: API_VERSION,
            now,
            more,
            sessions: None,
            tokens: None,
            next: None,
            users: None,
            changes: None,
            credentials: None,
            rotation: None,
            status: None,
            metrics: None,
            error: None,
        };
        match result {
            Ok(Response::Sessions(sessions)) => line.sessions = Some(sessions),
            Ok(Response::Tokens { tokens, next }) => (line.tokens, line.next) = (Some(tokens), next),
            Ok(Response::Users(users)) => line.users = Some(users),
            Ok(Response::Changes(changes)) => line.changes = Some(changes),
            Ok(Response::Credentials(credentials)) => line.credentials = Some(credentials),
            Ok(Response::Rotation(rotation)) => line.rotation = Some(rotation),
            Ok(Response::Status(status)) => line.status = Some(status),
            Ok(Response::Metrics(text)) => line.metrics = Some(text),
            Err(error) => line.error = Some(error),
        }
        line
    }

    fn result(self) -> Option<Result<Response, ApiError>> {
        let next = self.next;
        None.or_else(|| self.error.map(Err))
            .or_else(|| self.sessions.map(Response::Sessions).map(Ok))
            .or_else(|| self.tokens.map(|tokens| Ok(Response::Tokens { tokens, next })))
            .or_else(|| self.users.map(Response::Users).map(Ok))
            .or_else(|| self.changes.map(Response::Changes).map(Ok))
            .or_else(|| self.credentials.map(Response::Credentials).map(Ok))
            .or_else(|| self.rotation.map(Response::Rotation).map(Ok))
            .or_else(|| self.status.map(Response::Status).map(Ok))
            .or_else(|| self.metrics.map(Response::Metrics).map(Ok))
    }
}
