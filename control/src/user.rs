//! `tessera user`: the gateway's own users, and locks on anybody.

use clap::{Args, Subcommand, ValueEnum};
use tessera_api::{
    Changes, Credentials, Empty, Moment, OtpKind, OtpSetting, Request, Response, User, UserAdd, UserName,
    UserOtp, UserPassword,
};

use crate::exit::Failure;
use crate::gateway::Gateway;
use crate::output::{self, Output};
use crate::table::{Align, Table, count, duration, printable};
use crate::{password, qr};

/// Commands about users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user; its password is made and shown once, unless one is given
    Add {
        /// The name
        name: String,
        /// Give a second factor, and show it as a QR code
        #[arg(long, value_enum, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "totp")]
        otp: Option<Otp>,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// List users
    List,
    /// Remove a user, its tokens and its sessions
    Remove {
        /// The name
        name: String,
    },
    /// Give a new second factor, or take it away
    Otp {
        /// The name
        name: String,
        /// Which one
        #[arg(value_enum, default_value_t = OtpOrNone::Totp)]
        otp: OtpOrNone,
    },
    /// Give a new password; it is made and shown once, unless one is given
    Password {
        /// The name
        name: String,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Keep somebody out: tokens dead, sessions ended, no login; also users that other means decide about
    Lock {
        /// The name
        name: String,
    },
    /// Let somebody in again
    Unlock {
        /// The name
        name: String,
    },
}

/// Where a password comes from. Never from the command line, which others can read.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct PasswordSource {
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// Ask for the password on the terminal
    #[arg(long)]
    ask_password: bool,
}

/// A second factor.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Otp {
    /// By the clock
    Totp,
    /// By a counter
    Hotp,
}

/// A second factor, or none.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OtpOrNone {
    /// By the clock
    Totp,
    /// By a counter
    Hotp,
    /// Away with it
    None,
}

/// Runs one command.
pub(crate) fn run(command: UserCommand, gateway: &Gateway, output: Output) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, otp, password } => {
            let password = password.read()?;
            let otp = otp.map(|otp| match otp {
                Otp::Totp => OtpKind::Totp,
                Otp::Hotp => OtpKind::Hotp,
            });
            told(gateway, &Request::UserAdd(UserAdd { name, password, otp }), output, "added")
        }
        UserCommand::List => {
            let reply = gateway.ask(&Request::UserList(Empty {}))?;
            output::show(reply, output, |response, now| match response {
                Response::Users(list) => Ok(table(list, now)),
                _ => Err(Failure::unexpected()),
            })
        }
        UserCommand::Otp { name, otp } => {
            let (otp, done) = match otp {
                OtpOrNone::Totp => (OtpSetting::Totp, "has a new second factor"),
                OtpOrNone::Hotp => (OtpSetting::Hotp, "has a new second factor"),
                OtpOrNone::None => (OtpSetting::None, "has no second factor any more"),
            };
            told(gateway, &Request::UserOtp(UserOtp { name, otp }), output, done)
        }
        UserCommand::Password { name, password } => {
            let password = password.read()?;
            told(
                gateway,
                &Request::UserPassword(UserPassword { name, password }),
                output,
                "has a new password",
            )
        }
        UserCommand::Remove { name } => {
            changed(gateway, &Request::UserRemove(UserName { name: name.clone() }), output, &name, "removed")
        }
        UserCommand::Lock { name } => {
            changed(gateway, &Request::UserLock(UserName { name: name.clone() }), output, &name, "locked")
        }
        UserCommand::Unlock { name } => {
            changed(gateway, &Request::UserUnlock(UserName { name: name.clone() }), output, &name, "unlocked")
        }
    }
}

impl PasswordSource {
    /// `None` when the gateway is to make one.
    fn read(&self) -> Result<Option<tessera_api::Sensitive>, Failure> {
        match self {
            Self { password_stdin: true, .. } => password::from_stdin().map(Some),
            Self { ask_password: true, .. } => password::ask().map(Some),
            Self { .. } => Ok(None),
        }
    }
}

/// A change, and how much it took along.
fn changed(
    gateway: &Gateway,
    request: &Request,
    output: Output,
    name: &str,
    done: &str,
) -> Result<(), Failure> {
    let reply = gateway.ask(request)?;
    output::show(reply, output, |response, _| match response {
        Response::Changes(Changes { users: 0, .. }) => {
            Ok(format!("user {} was {done} already\n", printable(name)))
        }
        Response::Changes(Changes { tokens, sessions, .. }) => Ok(format!(
            "user {} {done}: {} revoked, {} ended\n",
            printable(name),
            count(*tokens, "token"),
            count(*sessions, "session")
        )),
        _ => Err(Failure::unexpected()),
    })
}

/// A change, and what the user must be told.
fn told(gateway: &Gateway, request: &Request, output: Output, done: &str) -> Result<(), Failure> {
    let reply = gateway.ask(request)?;
    output::show(reply, output, |response, _| match response {
        Response::Credentials(credentials) => letter(credentials, done),
        _ => Err(Failure::unexpected()),
    })
}

fn letter(credentials: &Credentials, done: &str) -> Result<String, Failure> {
    // Room for all of it, so that no copy of a secret is left behind by growing.
    let mut text = String::with_capacity(16 * 1024);
    text.push_str(&format!("user {} {done}\n", printable(&credentials.name)));
    let mut line = |parts: [&str; 2]| {
        text.extend(parts);
        text.push('\n');
    };
    if let Some(password) = &credentials.password {
        line(["password  ", password.expose()]);
    }
    if let Some(otp) = &credentials.otp {
        let kind = match otp.kind {
            OtpKind::Totp => "totp",
            OtpKind::Hotp => "hotp",
        };
        line(["otp       ", kind]);
        line(["secret    ", otp.secret.expose()]);
        line(["uri       ", otp.uri.expose()]);
        line(["", &qr::code(otp.uri.expose())?]);
    }
    if credentials.password.is_some() || credentials.otp.is_some() {
        line(["This is not shown again.", ""]);
    }
    Ok(text)
}

fn table(list: &[User], now: Moment) -> String {
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("NAME", Left), ("OTP", Left), ("STATE", Left), ("AGE", Right), ("FROM", Left)]);
    for user in list {
        let otp = match user.otp {
            Some(OtpKind::Totp) => "totp",
            Some(OtpKind::Hotp) => "hotp",
            None => "",
        };
        let state = match user.locked_out_until.map(|until| until.since(now)) {
            _ if user.locked => "locked".to_owned(),
            Some(left) if left > 0 => format!("locked out for {}", duration(left)),
            _ => "active".to_owned(),
        };
        table.row([
            user.name.clone(),
            otp.to_owned(),
            state,
            user.created.map(|created| duration(now.since(created))).unwrap_or_default(),
            if user.in_auth_file { "auth-file" } else { "elsewhere" }.to_owned(),
        ]);
    }
    table.render()
}
