//! What one login with a password costs on this machine, to choose parameters by:
//!
//! ```text
//! cargo run --release -p tesserad --example password_cost
//! ```

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use tessera_proto::Secret;
use tesserad::accounts::{Accounts, AccountsOptions, MemoryLedger, OtpKind, Request};
use tesserad::clock;

/// Logins of each kind; the median of them is printed.
const LOGINS: usize = 51;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("password-cost-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let measured = measure(&path);
    std::fs::remove_file(&path)?;
    measured
}

fn measure(path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let accounts = Accounts::open(AccountsOptions::new(path), Arc::new(MemoryLedger::new()))?;
    accounts.add("known", Some(Secret::new("secret".to_owned())), Some(OtpKind::Totp))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for (what, user, password) in [
        ("right password, then a challenge", "known", "secret"),
        ("wrong password", "known", "wrong"),
        ("unknown user", "unknown", "wrong"),
        ("wrong password with a code behind it", "known", "wrong123456"),
        ("unknown user with a code behind it", "unknown", "wrong123456"),
        ("answer to no challenge", "known", "CRV1::none::123456"),
    ] {
        let mut times = Vec::with_capacity(LOGINS);
        for _ in 0..LOGINS {
            let request = Request {
                user: user.to_owned(),
                password: Secret::new(password.to_owned()),
                source: [192, 0, 2, 1].into(),
                certificate: None,
                crtext: false,
                now: clock::read(),
            };
            let start = clock::now();
            runtime.block_on(accounts.verify(request));
            times.push(clock::now().saturating_duration_since(start));
            accounts.lockout().forgive(user);
        }
        times.sort_unstable();
        println!("{:8.2} ms  {what}", times[LOGINS / 2].as_secs_f64() * 1_000.0);
    }
    Ok(())
}
