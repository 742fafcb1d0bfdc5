//! Passwords leave the memory of the gateway. In a process of its own, where nothing else is in memory.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use tessera_proto::{Now, Secret};
use tesserad::accounts::{Accounts, AccountsOptions, Cost, MemoryLedger, OtpKind, Request};

/// After logins of every kind, the memory of this process holds no password. It is looked for by a mask, so that the
/// search itself does not hold it.
#[test]
fn passwords_leave_memory() {
    const MASK: u8 = 0x55;
    let masked: Vec<u8> = b"zebra-Quartz-9917".iter().map(|byte| byte ^ MASK).collect();
    let reveal = || Secret::new(masked.iter().map(|byte| char::from(byte ^ MASK)).collect::<String>());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("accounts");
    fs::write(&path, "# users\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let options = AccountsOptions { cost: Cost::WEAKEST, threads: 2, ..AccountsOptions::new(&path) };
    let accounts = Accounts::open(options, Arc::new(MemoryLedger::new())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    accounts.add("mem", Some(reveal()), Some(OtpKind::Totp)).unwrap();
    let field = |before: &str, after: &str| {
        let mut text = Secret::new(String::with_capacity(256));
        text.expose_mut().push_str(before);
        text.expose_mut().push_str(reveal().expose());
        text.expose_mut().push_str(after);
        text
    };
    for (before, after) in [("", ""), ("x", ""), ("", "123456"), ("", "x")] {
        for _ in 0..20 {
            let password = field(before, after);
            let request = Request {
                user: "mem".into(),
                password,
                source: [192, 0, 2, 9].into(),
                certificate: None,
                crtext: after.is_empty(),
                now: Now::default(),
            };
            runtime.block_on(accounts.verify(request));
            accounts.lockout().forgive("mem");
        }
    }
    let control = reveal();
    assert!(in_memory(&masked, MASK) > 0, "the search finds what is there");
    drop(control);
    assert_eq!(in_memory(&masked, MASK), 0);
}

/// How often the unmasked text stands in the writable memory of this process.
fn in_memory(masked: &[u8], mask: u8) -> usize {
    let mut memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        if !mode.starts_with("rw") {
            continue;
        }
        let (low, high) = range.split_once('-').unwrap();
        let (low, high) = (u64::from_str_radix(low, 16).unwrap(), u64::from_str_radix(high, 16).unwrap());
        let mut content = vec![0; usize::try_from(high - low).unwrap()];
        memory.seek(SeekFrom::Start(low)).unwrap();
        if memory.read_exact(&mut content).is_err() {
            continue;
        }
        // The copy must not be found in its turn.
        for byte in &mut content {
            *byte ^= mask;
        }
        let first = masked[0];
        let starts = content.iter().enumerate().filter(|(_, byte)| **byte == first);
        found += starts.filter(|(at, _)| content[*at..].starts_with(masked)).count();
    }
    found
}
