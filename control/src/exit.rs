//! Exit codes of `tessera`, all of them, and what ends it early. The command line itself is judged by its parser, which exits with
//! [`USAGE`], too.

use std::io;

use tessera_api::{ApiError, ErrorCode};

/// Everything went as asked.
pub(crate) const OK: u8 = 0;
/// It failed.
pub(crate) const FAILED: u8 = 1;
/// The command makes no sense.
pub(crate) const USAGE: u8 = 2;
/// What was named is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// No gateway answers at the socket.
pub(crate) const UNREACHABLE: u8 = 4;
/// Refused: by the gateway, by the permissions of its socket, or a configuration that it would not start with.
pub(crate) const REFUSED: u8 = 5;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: u8,
    /// One line for standard error.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An answer that does not belong to the question.
    pub(crate) fn unexpected() -> Self {
        Self::new(FAILED, "the gateway answered something else than was asked")
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let code = match error.code {
            ErrorCode::BadRequest => USAGE,
            ErrorCode::NotFound => NOT_FOUND,
            ErrorCode::Exists | ErrorCode::Forbidden | ErrorCode::Refused => REFUSED,
            _ => FAILED,
        };
        Self { code, message: error.message }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(FAILED, error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(FAILED, format!("JSON: {error}"))
    }
}
