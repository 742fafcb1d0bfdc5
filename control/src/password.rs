//! Passwords from the terminal or from standard input.

use std::io::{BufRead as _, Read as _};

use tessera_api::Sensitive;
use zeroize::Zeroizing;

use crate::exit::{self, Failure};

/// Longest line that is read. The gateway takes less.
const MAX_LINE: u64 = 4096;

/// The first line of standard input, without its end.
pub(crate) fn from_stdin() -> Result<Sensitive, Failure> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE as usize));
    // Locked and limited, so that the rest stays for whoever shares the input; what the lock has buffered dies with us.
    std::io::stdin().lock().take(MAX_LINE).read_until(b'\n', &mut line)?;
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let text = str::from_utf8(text).map_err(|_| Failure::new(exit::USAGE, "the password is not UTF-8"))?;
    if text.is_empty() {
        return Err(Failure::new(exit::USAGE, "there is no password on standard input"));
    }
    Ok(Sensitive::new(text.to_owned()))
}

/// Asks twice on the terminal, without echo.
pub(crate) fn ask() -> Result<Sensitive, Failure> {
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .map_err(|error| Failure::new(exit::FAILED, format!("the terminal: {error}")))
    };
    let first = ask("Password: ")?;
    let again = ask("Password again: ")?;
    if first.is_empty() {
        return Err(Failure::new(exit::USAGE, "the password is empty"));
    }
    if *first != *again {
        return Err(Failure::new(exit::USAGE, "the passwords differ"));
    }
    Ok(Sensitive::new((*first).clone()))
}
