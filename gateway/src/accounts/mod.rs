//! Built-in accounts: a file of users with password hashes and second factors, and the decision about a login.
//!
//! ```text
//!  login (shard) ──Request──▶ lockout ──▶ queue ──▶ pool: argon2id, one-time code, lockout ──▶ Decision
//!                                                     │                │
//!                                       accounts (file, snapshot)   ledger (used codes)
//! ```
//!
//! What is promised:
//! - *The client learns nothing but yes or no.* How many hashes are computed, and at what cost, depends on the presented text
//!   and on the file as a whole; never on whether the user exists, is disabled, or has a second factor.
//! - *A code counts once*, also on two threads at the same time, and also after the clock went back.
//! - *A lockout concerns passwords.* Who has a valid token is not asked for here.
//! - *No answer is not a no*: when the queue is full the client is told to come back.

mod admin;
mod challenge;
mod decide;
mod file;
mod hash;
mod ledger;
mod lockout;
mod otp;
mod pool;
pub mod prompts;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_proto::{Instant, Now, Secret};

pub use admin::{Added, Listed, MAX_PASSWORD};
pub use decide::{Decision, Pending, Request, Stats};
pub use file::{LineError, MAX_LINE, MAX_NAME, MAX_USERS};
pub use hash::Cost;
pub use ledger::{MemoryLedger, OtpLedger};
pub use lockout::Lockout;
pub use otp::{Digits, OtpAlgorithm, OtpKind};
pub use store::{AccountsError, Refresh};

use challenge::Challenges;
use decide::Inner;
use pool::Pool;
use store::Store;

/// Least time for the answer to a challenge: to find the phone.
pub const CHALLENGE_SHORTEST: Duration = Duration::from_secs(120);
/// Most time for it: so long the right password is taken as said.
pub const CHALLENGE_LONGEST: Duration = Duration::from_secs(300);

/// How accounts are kept and asked for.
#[derive(Debug, Clone)]
pub struct AccountsOptions {
    /// The account file. It must exist; an empty one has no users.
    pub path: PathBuf,
    /// Who issues second factors: apps show it beside the user's name.
    pub issuer: String,
    /// What a user is asked for.
    pub prompt: String,
    /// How long a challenge may be answered, from [`CHALLENGE_SHORTEST`] to [`CHALLENGE_LONGEST`].
    pub challenge_lifetime: Duration,
    /// Threads that compute hashes; 0 is half of the cores.
    pub threads: usize,
    /// What new password hashes cost.
    pub cost: Cost,
}

impl AccountsOptions {
    /// The defaults for a file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            issuer: "Tessera".to_owned(),
            prompt: "One-time code".to_owned(),
            challenge_lifetime: Duration::from_secs(180),
            threads: 0,
            cost: Cost::OWASP,
        }
    }
}

/// The accounts of a gateway. Dropping them waits for the hashes that are being computed.
#[derive(Debug)]
pub struct Accounts {
    inner: Arc<Inner>,
    pool: Pool,
    options: AccountsOptions,
}

impl Accounts {
    /// Reads the account file and starts the threads. Blocks on the disk.
    ///
    /// # Errors
    /// [`AccountsError`] when the file cannot be read, any line of it cannot be used, an option is out of bounds, or threads
    /// cannot be had.
    pub fn open(options: AccountsOptions, ledger: Arc<dyn OtpLedger>) -> Result<Self, AccountsError> {
        if !(CHALLENGE_SHORTEST..=CHALLENGE_LONGEST).contains(&options.challenge_lifetime) {
            let (low, high) = (CHALLENGE_SHORTEST.as_secs(), CHALLENGE_LONGEST.as_secs());
            return Err(AccountsError::Invalid(format!(
                "a challenge may be answered for {low} to {high} seconds"
            )));
        }
        options.cost.check().map_err(AccountsError::Invalid)?;
        let threads = if options.threads == 0 { Pool::default_threads() } else { options.threads };
        let store = Store::open(&options.path, options.cost)?;
        let lockout = Lockout::new().map_err(AccountsError::System)?;
        let inner = Inner {
            store,
            ledger,
            lockout,
            challenges: Challenges::new(options.challenge_lifetime),
            prompt: prompts::sanitize_prompt(&options.prompt),
            lifetime: options.challenge_lifetime,
            stats: Stats::default(),
        };
        let thread_error = |error: io::Error| AccountsError::System(format!("no threads: {error}"));
        let pool = Pool::start(threads).map_err(thread_error)?;
        Ok(Self { inner: Arc::new(inner), pool, options })
    }

    /// Decides a login. Waits for a thread of the pool; to drop the future gives the attempt up, if it has not begun.
    pub async fn verify(&self, request: Request) -> Decision {
        if let Some(locked) = self.inner.refuse_locked(&request.user, request.source, request.now) {
            return locked;
        }
        let inner = Arc::clone(&self.inner);
        let decided = self.pool.run(move |hasher| inner.verify(hasher, &request)).await;
        self.inner.answered(decided)
    }

    /// Decides about the answer to [`Decision::AskInSession`]: the text that the user typed, decoded.
    pub async fn verify_response(&self, pending: Pending, response: Secret<String>, now: Now) -> Decision {
        let inner = Arc::clone(&self.inner);
        let decided = self.pool.run(move |_| inner.verify_response(pending, &response, now)).await;
        self.inner.answered(decided)
    }

    /// Looks whether the account file changed, at most once a second whoever calls how often. Blocks on the disk.
    pub fn refresh(&self, now: Instant) -> Refresh {
        self.inner.store.refresh(now)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// Who guessed too often; also for deciders beside these accounts.
    #[must_use]
    pub fn lockout(&self) -> &Lockout {
        &self.inner.lockout
    }
}
