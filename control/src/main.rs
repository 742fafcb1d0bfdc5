//! The `tessera` control CLI: one noun per file.

mod config;
mod exit;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Control of the Tessera VPN gateway.
#[derive(Debug, Parser)]
#[command(name = "tessera", version)]
struct Cli {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Configuration files
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
}

fn main() -> ExitCode {
    let Noun::Config { command } = Cli::parse().noun;
    match config::run(&command) {
        Ok(code) => ExitCode::from(code),
        Err((code, message)) => {
            // Where standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr().lock(), "tessera: {message}");
            ExitCode::from(code)
        }
    }
}
