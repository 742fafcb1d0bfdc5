//! From a file and a command line to a report and a typed configuration.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::build::{Draft, Effect, finish};
use super::diagnostic::{Diagnostic, Place};
use super::directives::{self, Class, Spec};
use super::lex::{self, Directive};
use super::model::Config;
use super::report::{Report, Row, Verdict};

/// How deep `config` may nest, as in OpenVPN.
pub const MAX_DEPTH: usize = 10;
/// Most directives over all files: nested files could otherwise multiply without end.
pub const MAX_DIRECTIVES: usize = 100_000;

/// Reads all files that the directives name by `config`, and settles what becomes of each directive.
///
/// Relative paths are taken from `cd`, else from `working_directory`. The configuration comes back even if the report
/// refuses it, so that further checks can add to the report; use it only if [`Report::refused`] is false.
pub fn load(directives: Vec<Directive>, working_directory: &Path) -> (Config, Report) {
    let mut reader = Reader {
        base: working_directory.to_owned(),
        directives: Vec::new(),
        problems: Vec::new(),
        ignorable: HashSet::new(),
        forward_compatible: false,
        config_file: None,
    };
    reader.take(directives, 0);
    let Reader { base, directives, problems, ignorable, forward_compatible, config_file } = reader;
    let last: HashMap<String, usize> =
        directives.iter().enumerate().map(|(index, item)| (item.directive.name.clone(), index)).collect();
    let mut draft = Draft::new(&base);
    // OpenVPN's own default.
    draft.config.process.verb = 1;
    draft.config.process.config_file = config_file;
    let mut report = Report { directives: Vec::with_capacity(directives.len()), problems };
    for (index, Taken { directive, optional }) in directives.iter().enumerate() {
        let spec = directives::find(&directive.name);
        let overridden = last.get(&directive.name).filter(|last| **last != index);
        let row = match spec {
            None if *optional => ignored(directive, "unknown here, and 'setenv opt' allows that"),
            None if ignorable.contains(&directive.name) => {
                ignored(directive, "unknown here, and 'ignore-unknown-option' allows that")
            }
            None if forward_compatible => {
                ignored(directive, "unknown here, and 'setenv FORWARD_COMPATIBLE' allows that")
            }
            None => refused(unknown(directive), directive),
            Some(spec) => match (overridden, spec) {
                (Some(last), Spec { list: false, class: Class::Honoured(_), .. }) => {
                    let place = &directives[*last].directive.place;
                    ignored(directive, format!("given again at {place}, and the last one wins"))
                }
                _ => apply(&mut draft, spec, directive),
            },
        };
        report.directives.push(row);
    }
    let (config, problems) = finish::finish(draft);
    report.problems.extend(problems);
    (config, report)
}

/// Reads one text as the whole configuration.
///
/// # Errors
/// Faults of the text itself, as from [`lex::lex`].
pub fn load_text(
    source_name: &str,
    text: impl AsRef<[u8]>,
    working_directory: &Path,
) -> Result<(Config, Report), Vec<Diagnostic>> {
    Ok(load(lex::lex(source_name, text)?, working_directory))
}

fn ignored(directive: &Directive, reason: impl Into<String>) -> Row {
    Row {
        directive: directive.name.clone(),
        place: directive.place.clone(),
        verdict: Verdict::Ignored,
        note: Some(reason.into()),
        hint: None,
    }
}

fn refused(problem: Diagnostic, directive: &Directive) -> Row {
    Row {
        directive: directive.name.clone(),
        place: problem.place,
        verdict: Verdict::Refused,
        note: Some(problem.message),
        hint: problem.hint,
    }
}

fn unknown(directive: &Directive) -> Diagnostic {
    let shown: String = directive.name.chars().take(64).collect();
    let problem = Diagnostic::error(&directive.place, format!("'{shown}' is not a directive"));
    match directives::nearest(&directive.name) {
        Some(name) => problem.hint(format!("did you mean '{name}'?")),
        None => problem.hint("'ignore-unknown-option NAME' lets a directive of another program pass"),
    }
}

/// The number of arguments, and whether a block is allowed.
fn check_shape(spec: &Spec, directive: &Directive) -> Result<(), Diagnostic> {
    let name = spec.name;
    if directive.inline.is_some() {
        if spec.inline {
            return Ok(());
        }
        let problem = Diagnostic::error(&directive.place, format!("{name} cannot be written as a block"));
        return Err(problem.hint(format!("write: {name} VALUE")));
    }
    let (min, max) = spec.args;
    let count = directive.args.len();
    if count < min {
        let message = format!("{name} needs at least {min} argument{}, it has {count}", plural(min));
        return Err(Diagnostic::error(&directive.place, message));
    }
    if count > max {
        let message = format!("{name} takes at most {max} argument{}, it has {count}", plural(max));
        let problem = Diagnostic::error(directive.arg_place(max), message);
        return Err(problem.hint("quote arguments that hold spaces"));
    }
    Ok(())
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn apply(draft: &mut Draft, spec: &Spec, directive: &Directive) -> Row {
    let outcome = check_shape(spec, directive).and_then(|()| match spec.class {
        Class::Ignored(reason) => Ok(Effect::Ignored(reason.to_owned())),
        Class::Refused(reason, hint) => {
            let message = format!("{}: {reason}", spec.name);
            Err(Diagnostic::error(&directive.place, message).hint(hint))
        }
        Class::Reading => Ok(Effect::Honoured),
        // The old way to point at a block; the block itself follows.
        Class::Honoured(_)
            if spec.inline && directive.arg(0) == Some("[inline]") && spec.name != "tls-auth" =>
        {
            Ok(Effect::Ignored(format!("the block <{}> holds the text", spec.name)))
        }
        Class::Honoured(handler) => handler(draft, directive),
    });
    let (verdict, note) = match outcome {
        Err(problem) => return refused(problem, directive),
        Ok(Effect::Honoured) => (Verdict::Honoured, None),
        Ok(Effect::Noted(note)) => (Verdict::Honoured, Some(note)),
        Ok(Effect::Ignored(reason)) => (Verdict::Ignored, Some(reason)),
    };
    draft.places.insert(directive.name.clone(), directive.place.clone());
    Row { directive: directive.name.clone(), place: directive.place.clone(), verdict, note, hint: None }
}

/// A directive as it was taken.
struct Taken {
    directive: Directive,
    /// It came by `setenv opt`: it may be unknown.
    optional: bool,
}

/// Follows `config`, `cd`, `setenv opt` and `ignore-unknown-option`.
struct Reader {
    base: PathBuf,
    directives: Vec<Taken>,
    problems: Vec<Diagnostic>,
    ignorable: HashSet<String>,
    forward_compatible: bool,
    config_file: Option<PathBuf>,
}

impl Reader {
    fn take(&mut self, directives: Vec<Directive>, depth: usize) {
        for mut directive in directives {
            if self.directives.len() >= MAX_DIRECTIVES {
                let message = format!("more than {MAX_DIRECTIVES} directives");
                self.problems.push(Diagnostic::error(&directive.place, message));
                return;
            }
            let optional = directive.name == "setenv" && directive.arg(0) == Some("opt");
            if optional {
                if directive.args.len() < 2 {
                    let problem = Diagnostic::error(&directive.place, "setenv opt without a directive");
                    self.problems.push(problem.hint("write: setenv opt DIRECTIVE VALUE"));
                    continue;
                }
                directive.name = directive.args[1].as_str().to_owned();
                directive.args.drain(..2);
            }
            match (directive.name.as_str(), directive.args.len()) {
                ("ignore-unknown-option", 1..) => {
                    self.ignorable.extend(directive.args.iter().map(|arg| arg.as_str().to_owned()));
                }
                ("setenv", 1..) if directive.arg(0) == Some("FORWARD_COMPATIBLE") => {
                    self.forward_compatible = directive.arg(1) != Some("0");
                }
                ("cd", 1) => self.change_directory(&directive),
                ("config", 1) => {
                    let include = directive.clone();
                    self.directives.push(Taken { directive, optional });
                    self.include(&include, depth);
                    continue;
                }
                _ => {}
            }
            self.directives.push(Taken { directive, optional });
        }
    }

    fn change_directory(&mut self, directive: &Directive) {
        let path = self.base.join(directive.arg(0).unwrap_or_default());
        if path.is_dir() {
            self.base = path;
        } else {
            let message = format!("cd: '{}' is not a directory", path.display());
            self.problems.push(Diagnostic::error(directive.arg_place(0), message));
        }
    }

    fn include(&mut self, directive: &Directive, depth: usize) {
        let path = self.base.join(directive.arg(0).unwrap_or_default());
        let place = directive.arg_place(0);
        if depth >= MAX_DEPTH {
            let message = format!("config files nest deeper than {MAX_DEPTH}");
            self.problems.push(Diagnostic::error(place, message).hint("does a file include itself?"));
            return;
        }
        if self.config_file.is_none() {
            self.config_file = Some(path.clone());
        }
        let name = directive.arg(0).unwrap_or_default();
        match read(&path) {
            Err(error) => {
                let message = format!("config: cannot read '{}': {error}", path.display());
                self.problems.push(Diagnostic::error(place, message));
            }
            Ok(text) => match lex::lex(name, text) {
                Ok(directives) => self.take(directives, depth + 1),
                Err(problems) => self.problems.extend(problems),
            },
        }
    }
}

/// Reads a file up to just over the tokenizer's limit, which then refuses it.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(lex::MAX_TEXT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// A directive that stands for one file on the command line.
pub fn include(file: &str, place: Place) -> Directive {
    let args = vec![lex::Arg::new(file, place.clone())];
    Directive { name: "config".to_owned(), args, inline: None, place }
}
