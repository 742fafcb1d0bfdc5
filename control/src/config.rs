//! `tessera config`: what the gateway would make of a configuration file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Subcommand;
use tessera_api::API_VERSION;
use tessera_api::config::ConfigReport;

use crate::exit::{self, Failure};
use crate::output::{self, Output};

/// Commands about configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say for each directive whether it is honoured, ignored harmlessly, or refused
    Check {
        /// The configuration file
        file: PathBuf,
    },
}

/// Runs one command.
pub(crate) fn run(command: &ConfigCommand, output: Output) -> Result<u8, Failure> {
    let ConfigCommand::Check { file } = command;
    if !file.is_file() {
        return Err(Failure::new(exit::NOT_FOUND, format!("there is no file '{}'", file.display())));
    }
    let report = check(file).map_err(|message| Failure::new(exit::FAILED, message))?;
    match output {
        Output::Table => output::print(report.to_string().as_bytes())?,
        Output::Json => output::print((serde_json::to_string_pretty(&report)? + "\n").as_bytes())?,
        Output::Jsonl => {
            output::print(&output::lines(&report.directives)?)?;
            output::print(&output::lines(&report.problems)?)?;
        }
    }
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
