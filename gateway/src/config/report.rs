//! What became of each directive, for people (table) and programs (JSON).

use std::fmt::Write as _;

use serde::Serialize;

use super::diagnostic::{Diagnostic, Place};

/// What became of one directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    pub const fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored harmlessly",
            Self::Refused => "refused",
        }
    }
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub directive: String,
    /// Where it was given.
    pub place: Place,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, or what else there is to know; always there unless it is simply honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What to do about a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The whole report. Holds no argument that could be a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each directive in the order it was given.
    pub directives: Vec<Row>,
    /// What is wrong or worth knowing beyond single directives.
    pub problems: Vec<Diagnostic>,
}

impl Report {
    /// Whether anything refuses the start.
    pub fn refused(&self) -> bool {
        self.directives.iter().any(|row| row.verdict == Verdict::Refused)
            || self.problems.iter().any(Diagnostic::is_error)
    }

    /// Everything that refuses the start, in order.
    pub fn errors(&self) -> Vec<Diagnostic> {
        let rows = self.directives.iter().filter(|row| row.verdict == Verdict::Refused).map(|row| {
            let problem = Diagnostic::error(&row.place, row.note.clone().unwrap_or_default());
            Diagnostic { hint: row.hint.clone(), ..problem }
        });
        rows.chain(self.problems.iter().filter(|problem| problem.is_error()).cloned()).collect()
    }

    /// Everything that is worth a line in the log at start: warnings, and directives that are left out.
    pub fn notices(&self) -> Vec<Diagnostic> {
        let rows = self.directives.iter().filter_map(|row| match (row.verdict, &row.note) {
            (Verdict::Ignored, Some(note)) => {
                Some(Diagnostic::warning(&row.place, format!("{} is ignored: {note}", row.directive)))
            }
            (Verdict::Honoured, Some(note)) => {
                Some(Diagnostic::warning(&row.place, format!("{}: {note}", row.directive)))
            }
            _ => None,
        });
        rows.chain(self.problems.iter().filter(|problem| !problem.is_error()).cloned()).collect()
    }

    /// The table for people; ends with a line that counts.
    pub fn table(&self) -> String {
        let cells: Vec<(String, &str, &Row)> =
            self.directives.iter().map(|row| (row.place.to_string(), row.verdict.word(), row)).collect();
        let width = |len: fn(&(String, &str, &Row)) -> usize| cells.iter().map(len).max().unwrap_or(0);
        let (places, verdicts) = (width(|cell| cell.0.chars().count()), width(|cell| cell.1.len()));
        let names = width(|cell| cell.2.directive.chars().count());
        let mut out = String::new();
        for (place, verdict, row) in &cells {
            let name = row.directive.as_str();
            // Writing to a String cannot fail.
            let _ = write!(out, "{place:places$}  {verdict:verdicts$}  {name:names$}");
            if let Some(note) = &row.note {
                let _ = write!(out, "  {note}");
            }
            if let Some(hint) = &row.hint {
                let _ = write!(out, " (hint: {hint})");
            }
            let trimmed = out.trim_end().len();
            out.truncate(trimmed);
            out.push('\n');
        }
        for problem in &self.problems {
            let _ = writeln!(out, "{problem}");
        }
        let count = |verdict| self.directives.iter().filter(|row| row.verdict == verdict).count();
        let errors = self.problems.iter().filter(|problem| problem.is_error()).count();
        let _ = writeln!(
            out,
            "{} honoured, {} ignored harmlessly, {} refused, {errors} errors, {} warnings",
            count(Verdict::Honoured),
            count(Verdict::Ignored),
            count(Verdict::Refused),
            self.problems.len() - errors,
        );
        out
    }

    /// The report as one JSON object, with `accepted` beside the two lists.
    ///
    /// # Errors
    /// None that is known: all fields are strings and numbers.
    pub fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            accepted: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        serde_json::to_string_pretty(&Document { accepted: !self.refused(), report: self })
    }
}
