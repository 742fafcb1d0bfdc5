//! `tessera-load`: puts a server under load.

mod data_command;

use clap::{Args, Parser, Subcommand};
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tessera_load::{End, Engine, Plan, Report, Target, tls};
use tessera_proto::Secret;
use tessera_proto::session::Credentials;

/// Load for an OpenVPN server.
#[derive(Debug, Parser)]
#[command(name = "tessera-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Logins: reset, TLS, PUSH_REPLY with an auth-token, EXIT; each from its own source port
    Logins(Logins),
    /// Data: peers that stay, and as many packets through the tunnel as fit, either way
    Data(data_command::Data),
    /// What `data` can send by itself: made-up keys, no gateway, and a sink of its own on the server's address
    Sink(data_command::Sink),
}

/// Who is logged in to, and with what.
#[derive(Debug, Args)]
struct Server {
    /// Address and UDP port
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddr,
    /// CA of the server's certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The clients' certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// User name; without one the certificate alone logs in
    #[arg(long, default_value = "", requires = "password")]
    user: String,
    /// A password made for the test: whoever sees this machine's processes sees it
    #[arg(long, default_value = "", requires = "user", hide_default_value = true)]
    password: String,
    /// A login that takes longer has failed, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true).args(["count", "seconds"]))]
struct Logins {
    #[command(flatten)]
    server: Server,
    /// Logins under way at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    concurrency: u32,
    /// Begin so many logins
    #[arg(long, value_name = "M")]
    count: Option<u64>,
    /// Begin logins for so long
    #[arg(long, value_name = "S")]
    seconds: Option<u32>,
    /// Begin so many a second, instead of one whenever another has ended
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// After every login with the password, log in so many times with the token that it was given
    #[arg(long, value_name = "K", default_value_t = 0)]
    reconnects: u32,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Logins(options) => logins(&options).and_then(|report| {
            print(&report, options.json).map(|()| ExitCode::from(u8::from(report.failed > 0)))
        }),
        Command::Data(options) => options.run(),
        Command::Sink(options) => options.run(),
    };
    done.unwrap_or_else(|message| {
        say(&message);
        ExitCode::from(2)
    })
}

/// To standard error. Where that is closed, the exit code still tells.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "tessera-load: {message}");
}

impl Server {
    fn target(&self) -> Result<Target, String> {
        let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let (ca, cert, key) = (read(&self.ca)?, read(&self.cert)?, read(&self.key)?);
        Ok(Target {
            server: self.server,
            tls: tls::client_config(&ca, &cert, &key).map_err(|error| error.to_string())?,
            credentials: Credentials {
                username: self.user.clone(),
                password: Secret::new(self.password.clone()),
            },
            limit: Duration::from_secs(self.timeout.into()),
        })
    }
}

fn logins(options: &Logins) -> Result<Report, String> {
    let target = options.server.target()?;
    let end = match (options.count, options.seconds) {
        (Some(count), _) => End::Count(count),
        (None, seconds) => End::After(Duration::from_secs(seconds.unwrap_or_default().into())),
    };
    let plan = Plan {
        concurrency: options.concurrency as usize,
        end,
        rate: options.rate,
        reconnects: options.reconnects,
    };
    Engine::new(target, plan).and_then(Engine::run).map_err(|error| error.to_string())
}

fn print(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> Result<(), String> {
    let text = if json {
        serde_json::to_string(report).map_err(|error| error.to_string())?
    } else {
        report.to_string()
    };
    writeln!(std::io::stdout().lock(), "{text}").map_err(|error| format!("standard output: {error}"))
}

/// A rate that time can be divided by.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=1e8).contains(&rate) { Ok(rate) } else { Err("0.001 to 100000000 a second".to_owned()) }
}
