//! `tessera config`: what the gateway would make of a configuration file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Subcommand, ValueEnum};
use tessera_api::API_VERSION;
use tessera_api::config::ConfigReport;

use crate::exit;

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
    let report = check(file).map_err(|message| (exit::FAILED, message))?;
    let text = match output {
        Output::Table => report.to_string(),
        Output::Json => {
            serde_json::to_string_pretty(&report).map_err(|e| (exit::FAILED, e.to_string()))? + "\n"
        }
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| (exit::FAILED, e.to_string()))?;
    Ok(if report.accepted { exit::OK } else { exit::REFUSED })
}

/// Asks the gateway's own program: it alone knows what it would do.
fn check(file: &Path) -> Result<ConfigReport, String> {
    let daemon = daemon();
    let output = Command::new(&daemon)
        .args(["--check", "-o", "json", "--config"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run '{}': {error}", daemon.display()))?;
    let report: ConfigReport = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("'{}' ended with {} and no report: {error}", daemon.display(), output.status)
    })?;
    if report.api_version != API_VERSION {
        return Err(format!(
            "'{}' speaks version {} of the contract, not {API_VERSION}",
            daemon.display(),
            report.api_version
        ));
    }
    Ok(report)
}

/// The `tesserad` beside this program, else the one in `PATH`.
fn daemon() -> PathBuf {
    let beside =
        std::env::current_exe().ok().and_then(|own| own.parent().map(|parent| parent.join("tesserad")));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new("tesserad").to_owned())
}
