//! What becomes of each directive of a configuration (`tesserad --check -o json`, `tessera config check`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of one directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is done.
    Honoured,
    /// It is left out without harm.
    Ignored,
    /// It refuses the start.
    Refused,
}

impl Verdict {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored harmlessly",
            Self::Refused => "refused",
        }
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the start goes on.
    Warning,
    /// The start is refused.
    Error,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectiveReport {
    /// Its name.
    pub directive: String,
    /// Where it was given: `file:line:column`, or `command line:N`.
    pub place: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, or what else there is to know; always there unless it is simply honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What to do about a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Something that is wrong or worth knowing beyond single directives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where.
    pub place: String,
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The whole report. Holds no argument that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct ConfigReport {
    /// [`crate::API_VERSION`] of whoever wrote it.
    pub api_version: u32,
    /// The gateway would start.
    pub accepted: bool,
    /// Each directive in the order it was given.
    pub directives: Vec<DirectiveReport>,
    /// The rest.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}: {severity}: {}", self.place, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

/// The table for people; ends with a line that counts.
impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = &self.directives;
        let width = |len: fn(&DirectiveReport) -> usize| rows.iter().map(len).max().unwrap_or(0);
        let places = width(|row| row.place.chars().count());
        let verdicts = width(|row| row.verdict.word().len());
        let names = width(|row| row.directive.chars().count());
        for row in rows {
            let note = row.note.as_ref().map(|note| format!("  {note}")).unwrap_or_default();
            let hint = row.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let (place, verdict, name) = (&row.place, row.verdict.word(), &row.directive);
            let line = format!("{place:places$}  {verdict:verdicts$}  {name:names$}{note}{hint}");
            writeln!(f, "{}", line.trim_end())?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
        let errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        writeln!(
            f,
            "{} honoured, {} ignored harmlessly, {} refused, {errors} errors, {} warnings",
            count(Verdict::Honoured),
            count(Verdict::Ignored),
            count(Verdict::Refused),
            self.problems.len() - errors,
        )
    }
}
