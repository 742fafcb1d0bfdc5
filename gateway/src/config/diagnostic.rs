//! What is wrong, where, and what to do about it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use tessera_api::config::Problem;
pub use tessera_api::config::Severity;

/// Where a directive (or one of its arguments) was written. Prints as `file:line:column` or `command line:N`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In a file; line and column start at 1, the column counts characters.
    File {
        /// The file as it was named.
        source: Arc<str>,
        /// Line, from 1.
        line: u32,
        /// Column in characters, from 1.
        column: u32,
    },
    /// On the command line; `argument` is the position in argv (the program itself is 0).
    CommandLine {
        /// Position in argv.
        argument: u32,
    },
    /// Nowhere in particular: something that is missing, or a fault of the configuration as a whole.
    Whole,
}

impl Place {
    /// A place in a file.
    pub fn file(source: &Arc<str>, line: u32, column: u32) -> Self {
        Self::File { source: Arc::clone(source), line, column }
    }

    /// The same line, at another column; places outside files stay as they are.
    #[must_use]
    pub fn at_column(&self, column: u32) -> Self {
        match self {
            Self::File { source, line, .. } => Self::File { source: Arc::clone(source), line: *line, column },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { source, line, column } => write!(f, "{source}:{line}:{column}"),
            Self::CommandLine { argument } => write!(f, "command line:{argument}"),
            Self::Whole => f.write_str("configuration"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One finding. Messages never hold a secret: not a key, a token or a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A finding that refuses the start.
    pub fn error(place: &Place, message: impl Into<String>) -> Self {
        Self { place: place.clone(), severity: Severity::Error, message: message.into(), hint: None }
    }

    /// A finding that is only worth knowing.
    pub fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    /// The same finding with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this finding refuses the start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl From<&Diagnostic> for Problem {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            place: diagnostic.place.to_string(),
            severity: diagnostic.severity,
            message: diagnostic.message.clone(),
            hint: diagnostic.hint.clone(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Problem::from(self).fmt(f)
    }
}
