//! What went wrong with a program, and what is missing for it.

use std::error::Error;
use std::fmt::Write as _;
use std::{fs, io};

/// The most of an explanation that is kept, in bytes: the log of the verifier has no bound of its own.
const MAX_DETAIL: usize = 600;

/// A capability: its name, and its number in linux/capability.h.
type Capability = (&'static str, u32);

/// Loading maps and programs.
pub(super) const CAP_BPF: Capability = ("CAP_BPF", 39);
/// Loading programs that decide what becomes of a device's packets, and attaching them.
pub(super) const CAP_NET_ADMIN: Capability = ("CAP_NET_ADMIN", 12);

/// A program, as far as errors are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub(super) name: &'static str,
    /// What loading and attaching it takes.
    pub(super) needs: &'static [Capability],
}

/// A program could not be loaded, attached or spoken to.
#[derive(Debug, thiserror::Error)]
#[error("BPF program {program}: {step}: {detail}")]
pub struct BpfError {
    program: &'static str,
    step: String,
    detail: String,
    kind: io::ErrorKind,
    missing: Vec<&'static str>,
}

impl BpfError {
    /// Which program.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        self.program
    }

    /// What was being done.
    #[must_use]
    pub fn step(&self) -> &str {
        &self.step
    }

    /// The kind of the system's error, `Other` if it was not the system's.
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        self.kind
    }

    /// The capabilities that this thread lacks, if the kernel has refused a right.
    #[must_use]
    pub fn missing_capabilities(&self) -> &[&'static str] {
        &self.missing
    }
}

/// An error of `step` of `program`. If a right was refused, it says which capability is missing.
pub(super) fn failed(program: Program, step: impl Into<String>, error: &(dyn Error + 'static)) -> BpfError {
    let cause = system_error(error);
    let kind = cause.map_or(io::ErrorKind::Other, io::Error::kind);
    let mut detail = describe(error);
    let mut missing = Vec::new();
    if kind == io::ErrorKind::PermissionDenied {
        missing =
            missing_of(program.needs, &fs::read_to_string("/proc/thread-self/status").unwrap_or_default());
        let _ = match missing.as_slice() {
            [] => write!(
                detail,
                "; no capability is missing: this is not the initial user namespace, or seccomp, a security module or the \
                 kernel's lockdown forbids it"
            ),
            names => write!(detail, "; missing: {}", names.join(", ")),
        };
    }
    BpfError { program: program.name, step: step.into(), detail, kind, missing }
}

/// An error of the caller's making.
pub(super) fn invalid(program: Program, step: impl Into<String>, why: String) -> BpfError {
    let kind = io::ErrorKind::InvalidInput;
    BpfError { program: program.name, step: step.into(), detail: why, kind, missing: Vec::new() }
}

/// The error and all its causes, in one line of bounded length. The end is the part of a verifier's log that tells.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // Some errors repeat their cause, some leave it to the reader.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    let all = parts.join(": ");
    match all.char_indices().rev().nth(MAX_DETAIL) {
        Some((cut, _)) => format!("… {}", &all[cut..]),
        None => all,
    }
}

/// The system's error among the causes.
fn system_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Which of `needs` the effective set of a `/proc/…/status` lacks.
fn missing_of(needs: &[Capability], status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // What cannot be read is not said to be missing.
    let effective = effective.unwrap_or(u64::MAX);
    needs.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_read_from_the_effective_set() {
        let missing = |status: &str| missing_of(&[CAP_BPF, CAP_NET_ADMIN], status);
        let status = |set: &str| format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{set}\n");
        assert_eq!(missing(&status("0000000000000000")), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(missing(&status("0000000000001000")), ["CAP_BPF"]);
        assert_eq!(missing(&status("0000008000000000")), ["CAP_NET_ADMIN"]);
        assert!(missing(&status("000001ffffffffff")).is_empty());
        assert!(missing("").is_empty());
    }

    #[test]
    fn an_error_names_program_step_and_cause_in_one_bounded_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("the load returned {0}. Log: {1}")]
        struct Load(#[source] io::Error, String);
        let log = format!("{}\nR1 invalid mem access", "0: (79) r1 = *(u64 *)(r1 +0)\n".repeat(500));
        let error = failed(
            Program { name: "tcx_guard", needs: &[CAP_BPF] },
            "load",
            &Load(io::Error::from_raw_os_error(libc::ENOENT), log),
        );
        let text = error.to_string();
        assert!(text.starts_with("BPF program tcx_guard: load: … "), "{text}");
        assert!(text.contains("R1 invalid mem access") && text.len() < 800, "{text}");
        assert!(!text.contains('\n'));
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.missing_capabilities().is_empty());
    }
}
