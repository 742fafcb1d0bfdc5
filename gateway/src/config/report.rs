//! What became of each directive, for people (table) and programs (JSON).

use tessera_api::API_VERSION;
use tessera_api::config::{ConfigReport, DirectiveReport, Problem};

pub use tessera_api::config::Verdict;

use super::diagnostic::{Diagnostic, Place};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub directive: String,
    /// Where it was given.
    pub place: Place,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, or what else there is to know; always there unless it is simply honoured.
    pub note: Option<String>,
    /// What to do about a refusal.
    pub hint: Option<String>,
}

/// The whole report. Holds no argument that could be a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
        self.to_api().to_string()
    }

    /// The report as one JSON object, by the contract of [`tessera_api::config`].
    ///
    /// # Errors
    /// None that is known: all fields are strings and numbers.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.to_api())
    }

    fn to_api(&self) -> ConfigReport {
        let directives = self.directives.iter().map(|row| DirectiveReport {
            directive: row.directive.clone(),
            place: row.place.to_string(),
            verdict: row.verdict,
            note: row.note.clone(),
            hint: row.hint.clone(),
        });
        let problems = self.problems.iter().map(Problem::from);
        ConfigReport {
            api_version: API_VERSION,
            accepted: !self.refused(),
            directives: directives.collect(),
            problems: problems.collect(),
        }
    }
}
