//! The `tessera` control CLI: one noun per file.

mod config;
mod exit;
mod gateway;
mod output;
mod password;
mod qr;
mod session;
mod status;
mod table;
mod token;
mod user;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::Failure;
use gateway::Gateway;
use output::Output;
use table::printable;

/// Control of the Tessera VPN gateway.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 no gateway answers, 5 refused.
#[derive(Debug, Parser)]
#[command(name = "tessera", version)]
struct Cli {
    /// The gateway's admin socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TESSERA_SOCKET",
        default_value = "/run/tessera/control.sock"
    )]
    socket: PathBuf,
    /// Form of what is printed
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Who is connected
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// What clients log in with again
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The gateway's own users, and locks on anybody
    #[command(subcommand)]
    User(user::UserCommand),
    /// How the gateway is doing
    Status,
    /// Counters in the Prometheus text format
    Metrics,
    /// Configuration files
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            output::complain(&printable(&message));
            ExitCode::from(code)
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let Cli { socket, output, noun } = cli;
    let gateway = Gateway::new(socket);
    match noun {
        Noun::Session(command) => session::run(command, &gateway, output)?,
        Noun::Token(command) => token::run(command, &gateway, output)?,
        Noun::User(command) => user::run(command, &gateway, output)?,
        Noun::Status => status::status(&gateway, output)?,
        Noun::Metrics => status::metrics(&gateway, output)?,
        Noun::Config { command } => return config::run(&command, output),
        Noun::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tessera", &mut text);
            output::print(&text)?;
        }
        Noun::Man { dir } => clap_mangen::generate_to(Cli::command(), dir)?,
    }
    Ok(exit::OK)
}
