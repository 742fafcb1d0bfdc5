//! `tessera config`: what the gateway would make of a configuration file.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Subcommand, ValueEnum};

use crate::exit;

/// `tesserad` refused the configuration (`EX_CONFIG`).
const DAEMON_CONFIG: i32 = 78;
/// `tesserad` was called wrongly (`EX_USAGE`).
const DAEMON_USAGE: i32 = 64;

/// Commands about configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say for each directive whether it is honoured, ignored harmlessly, or refused
    Check {
        /// The configuration file
        file: PathBuf,
        /// Form of the report
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

/// Form of a report.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Runs one command; the message goes to standard error.
pub(crate) fn run(command: &ConfigCommand) -> Result<u8, (u8, String)> {
    let ConfigCommand::Check { file, output } = command;
    if !file.is_file() {
        return Err((exit::NOT_FOUND, format!("there is no file '{}'", file.display())));
    }
    let output = match output {
        Output::Table => "table",
        Output::Json => "json",
    };
    let daemon = daemon();
    let status = Command::new(&daemon)
        .args(["--check", "-o", output, "--config"])
        .arg(file)
        .status()
        .map_err(|error| (exit::FAILED, format!("cannot run '{}': {error}", daemon.display())))?;
    match status.code() {
        Some(0) => Ok(exit::OK),
        Some(DAEMON_CONFIG) => Ok(exit::REFUSED),
        Some(DAEMON_USAGE) => Ok(exit::USAGE),
        _ => Err((exit::FAILED, format!("'{}' ended with {status}", daemon.display()))),
    }
}

/// The `tesserad` beside this program, else the one in `PATH`.
fn daemon() -> PathBuf {
    let beside =
        std::env::current_exe().ok().and_then(|own| own.parent().map(|parent| parent.join("tesserad")));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new("tesserad").to_owned())
}
