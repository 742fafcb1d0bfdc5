//! Password hashes: argon2id in PHC form, and the memory that computes them.

use std::fmt;

use argon2::password_hash::phc::{Output, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Salt of new hashes in bytes, as RFC 9106 recommends.
const SALT_BYTES: usize = 16;
/// Output of new hashes in bytes: nobody finds two passwords with the same 256 bits.
const OUTPUT_BYTES: usize = 32;
/// Output that is taken: shorter is guessed, longer buys nothing.
const OUTPUT_RANGE: std::ops::RangeInclusive<usize> = 16..=64;
/// Stack that a hash may have left parts of the password on. The state of the hash function is below 1 KiB, its blocks
/// are 1 KiB each; 32 KiB is far beyond all frames together.
const SCRUBBED_STACK: usize = 32 * 1024;

/// What one run of argon2id costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes. They are computed one after the other here.
    pub lanes: u32,
}

impl Cost {
    /// 19 MiB, two passes, one lane: the first choice of OWASP's Password Storage Cheat Sheet, about 30 ms of one core.
    pub const OWASP: Self = Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 };
    /// Weaker hashes are not taken: 1 MiB is passed over in a millisecond.
    pub const WEAKEST: Self = Self { memory_kib: 1024, passes: 1, lanes: 1 };
    /// Costlier hashes are not taken: every login pays, also those that guess, and every thread keeps the memory.
    pub const COSTLIEST: Self = Self { memory_kib: 64 * 1024, passes: 6, lanes: 16 };

    fn params(self, output: usize) -> Result<Params, String> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(output)).map_err(|error| error.to_string())
    }

    /// Whether a hash of this cost is taken.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(self) -> Result<(), String> {
        let (low, high) = (Self::WEAKEST, Self::COSTLIEST);
        for (what, value, low, high) in [
            ("m (KiB)", self.memory_kib, low.memory_kib, high.memory_kib),
            ("t", self.passes, low.passes, high.passes),
            ("p", self.lanes, low.lanes, high.lanes),
        ] {
            if !(low..=high).contains(&value) {
                return Err(format!("argon2 parameter {what} is {value}, must be from {low} to {high}"));
            }
        }
        Ok(())
    }
}

/// One stored hash. It prints as its PHC string only on demand, never in debug output.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PasswordHash {
    cost: Cost,
    salt: Salt,
    output: Output,
}

impl PasswordHash {
    /// Reads a PHC string: argon2id, version 19, parameters within bounds, salt and output there.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('$') {
            return Err(
                "the password must be an argon2id hash ($argon2id$v=19$m=…,t=…,p=…$SALT$HASH)".to_owned()
            );
        }
        let phc = argon2::PasswordHash::new(text).map_err(|error| format!("no PHC string: {error}"))?;
        if phc.algorithm.as_str() != "argon2id" {
            return Err(format!("the hash is {}, must be argon2id", phc.algorithm.as_str()));
        }
        if phc.version != Some(u32::from(Version::V0x13)) {
            return Err("the argon2 version must be 19 (v=19)".to_owned());
        }
        let params = Params::try_from(&phc).map_err(|error| format!("argon2 parameters: {error}"))?;
        if !params.keyid().is_empty() || !params.data().is_empty() {
            return Err("argon2 parameters keyid and data are not supported".to_owned());
        }
        let cost = Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() };
        cost.check()?;
        let (Some(salt), Some(output)) = (phc.salt, phc.hash) else {
            return Err("the hash has no salt or no output".to_owned());
        };
        if !OUTPUT_RANGE.contains(&output.len()) {
            return Err(format!("the hash has {} bytes, must be from 16 to 64", output.len()));
        }
        cost.params(output.len())?;
        Ok(Self { cost, salt, output })
    }

    pub(super) const fn cost(&self) -> Cost {
        self.cost
    }

    /// A hash of the same cost that belongs to nobody.
    pub(super) fn of_nobody(cost: Cost) -> Result<Self, String> {
        let output = Output::new(&random::<OUTPUT_BYTES>()?).map_err(|error| error.to_string())?;
        Ok(Self { cost, salt: new_salt()?, output })
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { memory_kib, passes, lanes } = self.cost;
        write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}", self.salt, self.output)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.cost)
    }
}

/// Computes hashes in memory of its own, which it keeps: to have 19 MiB cleared by the kernel for each hash would cost
/// thousands of page faults.
#[derive(Default)]
pub(super) struct Hasher {
    blocks: Vec<Block>,
}

impl Hasher {
    /// Whether this is the password; takes the same time for every password and every hash of the same cost.
    pub(super) fn verify(&mut self, password: &[u8], hash: &PasswordHash) -> bool {
        let mut output = Zeroizing::new([0; *OUTPUT_RANGE.end()]);
        let output = &mut output[..hash.output.len()];
        // Parameters were checked when the hash was read; whatever else fails must not let anybody in.
        self.compute(password, &hash.salt, hash.cost, output).is_ok()
            && bool::from(output.ct_eq(hash.output.as_bytes()))
    }

    /// Hashes a new password.
    pub(super) fn hash(&mut self, password: &[u8], cost: Cost) -> Result<PasswordHash, String> {
        cost.check()?;
        let salt = new_salt()?;
        let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
        self.compute(password, &salt, cost, &mut output[..])?;
        let output = Output::new(&output[..]).map_err(|error| error.to_string())?;
        Ok(PasswordHash { cost, salt, output })
    }

    fn compute(&mut self, password: &[u8], salt: &[u8], cost: Cost, output: &mut [u8]) -> Result<(), String> {
        let params = cost.params(output.len())?;
        let blocks = params.block_count();
        if self.blocks.len() < blocks {
            self.blocks.resize(blocks, Block::default());
        }
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let computed =
            argon2.hash_password_into_with_memory(password, salt, output, &mut self.blocks[..blocks]);
        scrub_stack();
        computed.map_err(|error| error.to_string())
    }
}

/// Overwrites the stack below the caller, where the hash function held parts of the password.
#[inline(never)]
fn scrub_stack() {
    let mut stack = [0_u8; SCRUBBED_STACK];
    std::hint::black_box(&mut stack);
    stack.zeroize();
    std::hint::black_box(&stack);
}

/// Random bytes of the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

fn new_salt() -> Result<Salt, String> {
    Salt::new(&random::<SALT_BYTES>()?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s password | argon2 somesalt -id -t 2 -k 65536 -p 1 -e`, as its authors' documentation shows it.
    const FOREIGN: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn hashes_verify_and_survive_their_text_form() {
        let mut hasher = Hasher::default();
        let hash = hasher.hash(b"correct horse", Cost::WEAKEST).unwrap();
        let read = PasswordHash::parse(&hash.to_string()).unwrap();
        assert_eq!(read, hash);
        assert!(hasher.verify(b"correct horse", &read));
        assert!(!hasher.verify(b"correct horsf", &read));
        assert!(!hasher.verify(b"", &read));
        assert_ne!(hasher.hash(b"correct horse", Cost::WEAKEST).unwrap(), hash, "salted");
        assert!(!hasher.verify(b"x", &PasswordHash::of_nobody(Cost::WEAKEST).unwrap()));
        assert!(!format!("{hash:?}").contains('$'));
    }

    #[test]
    fn hashes_of_other_programs_are_understood() {
        let hash = PasswordHash::parse(FOREIGN).unwrap();
        assert_eq!(hash.to_string(), FOREIGN);
        let mut hasher = Hasher::default();
        assert!(hasher.verify(b"password", &hash));
        assert!(!hasher.verify(b"Password", &hash));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (text, why) in [
            ("", "must be an argon2id hash"),
            ("secret", "must be an argon2id hash"),
            ("$2y$10$abcdefghijklmnopqrstuv", ""),
            (
                "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
                "argon2i,",
            ),
            (
                "$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
                "version",
            ),
            (
                "$argon2id$v=19$m=8,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
                "m (KiB) is 8",
            ),
            (
                "$argon2id$v=19$m=999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
                "999999",
            ),
            ("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ", "no output"),
            ("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$!!!", "PHC"),
        ] {
            let error = PasswordHash::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
