//! The one table of directives: every option that OpenVPN has, and Tessera's own, each with what is done about it.

mod access;
mod addressing;
mod process;
mod tls;
mod transport;

use std::cmp::Reverse;

use super::build::Handler;

/// What is done about a directive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Class {
    /// Honoured by this handler (which may still refuse what it cannot do).
    Honoured(Handler),
    /// Left out without harm, for this reason.
    Ignored(&'static str),
    /// Refuses the start: the reason, and what to do instead.
    Refused(&'static str, &'static str),
    /// Taken while the files are read (`config`, `ignore-unknown-option`).
    Reading,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    /// The name.
    pub(super) name: &'static str,
    /// Fewest and most arguments.
    pub(super) args: (usize, usize),
    /// May be written as `<name>…</name>`.
    pub(super) inline: bool,
    /// Given twice, both count; otherwise the last one wins.
    pub(super) list: bool,
    /// What is done.
    pub(super) class: Class,
}

impl Spec {
    const fn inline(self) -> Self {
        Self { inline: true, ..self }
    }

    const fn list(self) -> Self {
        Self { list: true, ..self }
    }
}

/// A directive that is honoured, with its fewest and most arguments.
const fn on(name: &'static str, min: usize, max: usize, handler: Handler) -> Spec {
    Spec { name, args: (min, max), inline: false, list: false, class: Class::Honoured(handler) }
}

/// A directive that is left out.
const fn off(name: &'static str, reason: &'static str) -> Spec {
    Spec { name, args: (0, usize::MAX), inline: true, list: true, class: Class::Ignored(reason) }
}

/// A directive that refuses the start.
const fn no(name: &'static str, reason: &'static str, hint: &'static str) -> Spec {
    Spec { name, args: (0, usize::MAX), inline: true, list: true, class: Class::Refused(reason, hint) }
}

/// A directive of clients.
const fn client(name: &'static str) -> Spec {
    no(name, "this is a client's directive", "leave it to the clients' profiles")
}

/// A directive that belongs to one client.
const fn per_client(name: &'static str) -> Spec {
    no(name, "this belongs to one client", "write it into the client's file in client-config-dir")
}

/// A directive that only means something under Windows.
const fn windows(name: &'static str) -> Spec {
    off(name, "it concerns only Windows")
}

const LATER: &str = "not in this release";

const TABLES: [&[Spec]; 5] = [addressing::TABLE, transport::TABLE, tls::TABLE, access::TABLE, process::TABLE];

/// All rows.
pub(super) fn all() -> impl Iterator<Item = &'static Spec> {
    TABLES.into_iter().flatten()
}

/// The row of a directive.
pub(super) fn find(name: &str) -> Option<&'static Spec> {
    all().find(|spec| spec.name == name)
}

/// The directive that was probably meant: the nearest name, if it is near; of several, the one that begins alike.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    // A third of the letters may be wrong; more is another word.
    let limit = (name.chars().count() / 3).max(1);
    all()
        .map(|spec| (distance(name, spec.name), spec.name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, known)| {
            let shared = name.chars().zip(known.chars()).take_while(|(a, b)| a == b).count();
            (*distance, Reverse(shared))
        })
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words. Words longer than any name are infinitely far.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(LONGEST + 1).collect(), b.chars().take(LONGEST + 1).collect());
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_row_says_why() {
        let mut seen = HashSet::new();
        for spec in all() {
            assert!(seen.insert(spec.name), "{} twice", spec.name);
            assert!(spec.args.0 <= spec.args.1, "{}", spec.name);
            match spec.class {
                Class::Ignored(reason) => assert!(reason.len() > 5, "{}", spec.name),
                Class::Refused(reason, hint) => {
                    assert!(reason.len() > 5 && hint.len() > 5, "{}", spec.name);
                }
                Class::Honoured(_) | Class::Reading => {}
            }
        }
        assert!(seen.len() > 250, "{}", seen.len());
    }

    #[test]
    fn nearest_finds_slips_only() {
        assert_eq!(nearest("prot"), Some("proto"));
        assert_eq!(nearest("max-client"), Some("max-clients"));
        assert_eq!(nearest("keepalvie"), Some("keepalive"));
        assert_eq!(nearest("wholly-other-thing"), None);
        assert_eq!(nearest(&"x".repeat(5000)), None);
    }
}
