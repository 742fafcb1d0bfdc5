//! The `tesserad` binary.

use std::alloc::System;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use tesserad::cli::{self, Invocation, KeyKind, Output};
use tesserad::config::Report;
use tesserad::{daemon, exit, genkey, pam, plugins};
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed. Our own secrets wipe themselves, but the plaintext of TLS records lies in buffers of the TLS library,
/// environments of hooks in those of the standard library, and a vector that grows leaves its bytes behind. Packets of the data path
/// are not concerned: nothing is allocated for them.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let mut argv = Vec::new();
    for word in std::env::args_os().skip(1) {
        match word.into_string() {
            Ok(word) => argv.push(word),
            Err(word) => return complain(exit::USAGE, &format!("not UTF-8: {}", word.display())),
        }
    }
    // The gateway runs itself so; it is no word for people, and not in the help.
    if argv == [pam::HELPER_WORD] {
        return match pam::run_helper() {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => complain(exit::USAGE, &error),
        };
    }
    let working_directory = match std::env::current_dir() {
        Ok(directory) => directory,
        Err(error) => return complain(exit::RUNTIME, &format!("no working directory: {error}")),
    };
    match cli::parse(argv, &working_directory) {
        Err(message) => complain(exit::USAGE, &message),
        Ok(Invocation::Help) => say(cli::HELP, exit::OK),
        Ok(Invocation::Version) => say(cli::VERSION, exit::OK),
        Ok(Invocation::PluginHost(socket)) => match plugins::host(socket) {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => complain(exit::RUNTIME, &format!("plugin host: {error}")),
        },
        Ok(Invocation::Check(report, output)) => check(&report, output),
        Ok(Invocation::Run(_, report)) if report.refused() => {
            for problem in report.errors() {
                complain(exit::CONFIG, &problem.to_string());
            }
            ExitCode::from(exit::CONFIG)
        }
        Ok(Invocation::Run(config, report)) => match daemon::run(*config, &report) {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => complain(error.code, &error.message),
        },
        Ok(Invocation::GenKey { kind, file, server_key, metadata }) => {
            generate(kind, file.as_deref(), server_key.as_deref(), metadata)
        }
    }
}

fn generate(
    kind: KeyKind,
    file: Option<&Path>,
    server_key: Option<&Path>,
    metadata: Option<Vec<u8>>,
) -> ExitCode {
    let made = genkey::make(kind, server_key, metadata).and_then(|text| match file {
        Some(file) => genkey::write(file, &text).map(|()| None),
        None => Ok(Some(text)),
    });
    match made {
        Ok(None) => ExitCode::from(exit::OK),
        Ok(Some(text)) => say(text.expose(), exit::OK),
        Err(error) => complain(exit::RUNTIME, &format!("genkey: {error}")),
    }
}

fn check(report: &Report, output: Output) -> ExitCode {
    let code = if report.refused() { exit::CONFIG } else { exit::OK };
    match output {
        Output::Table => say(&report.table(), code),
        Output::Json => match report.json() {
            Ok(text) => say(&(text + "\n"), code),
            Err(error) => complain(exit::RUNTIME, &format!("the report cannot be written as JSON: {error}")),
        },
    }
}

/// Writes to standard output; a reader that went away is a fault, unless the answer was already bad.
fn say(text: &str, code: u8) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(_) if code == exit::OK => ExitCode::from(exit::RUNTIME),
        _ => ExitCode::from(code),
    }
}

/// Writes one line to standard error.
fn complain(code: u8, message: &str) -> ExitCode {
    // Where standard error is closed, the exit code still tells.
    let _ = writeln!(std::io::stderr().lock(), "tesserad: {message}");
    ExitCode::from(code)
}
