//! Why a request was not done.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request is not one: no JSON, a field that is missing, unknown or out of bounds.
    BadRequest,
    /// The request is of a version of the contract that the gateway does not speak.
    UnsupportedVersion,
    /// There is no such method.
    UnknownMethod,
    /// The request is longer than [`crate::MAX_REQUEST`].
    TooLarge,
    /// The peer may not use the socket.
    Forbidden,
    /// What was named is not there.
    NotFound,
    /// What was to be made is already there.
    Exists,
    /// The gateway is not set up for it, or its rules do not allow it.
    Refused,
    /// Too many connections or requests at a time: try again.
    Busy,
    /// It took too long. What was asked for may still happen.
    Timeout,
    /// It failed for now: a store that cannot be written, for example.
    Unavailable,
    /// A fault of the gateway.
    Internal,
    /// A kind that this version of the types does not know.
    #[serde(other)]
    Unknown,
}

/// Why a request was not done: a kind for programs, one line for people. Holds nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// The kind.
    pub code: ErrorCode,
    /// One line.
    pub message: String,
}

impl ApiError {
    /// An error of one kind.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// [`ErrorCode::BadRequest`].
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// [`ErrorCode::NotFound`].
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// [`ErrorCode::Refused`].
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Refused, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
