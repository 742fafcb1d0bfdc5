//! A PAM service of the test's own: its script decides, no user of the system is needed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::topology::Net;

/// A file in `/etc/pam.d`, removed on drop.
#[derive(Debug)]
pub struct PamService {
    name: String,
    file: PathBuf,
}

impl PamService {
    /// Asks for a password and runs `body`: shell that finds the user in `$PAM_USER` and the password in `$secret`; its
    /// exit status decides. With `codes` (a user and a secret in hexadecimal, for each) `pam_oath` asks for a one-time
    /// code as well.
    #[must_use]
    pub fn new(net: &Net, body: &str, codes: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tessera-e2e-{}-{serial}", std::process::id());
        let script = net.folder().join(format!("pam-{serial}"));
        // pam_exec hands over the secret with a zero byte behind it.
        let text = format!("#!/bin/sh\nPATH=/usr/bin:/bin\nsecret=$(tr -d '\\0')\n{body}\n");
        std::fs::write(&script, text).expect("write a script");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("make it executable");
        let script = script.to_str().expect("a UTF-8 path");
        let mut service = format!("auth required pam_exec.so expose_authtok quiet {script}\n");
        if !codes.is_empty() {
            let lines: String =
                codes.iter().map(|(user, secret)| format!("HOTP/T30/6 {user} - {secret}\n")).collect();
            let users = net.write(&format!("users-{serial}.oath"), &lines);
            // pam_oath takes no file that others may read.
            std::fs::set_permissions(&users, PermissionsExt::from_mode(0o600)).expect("a private file");
            service.push_str(&format!("auth required pam_oath.so usersfile={users} window=2 digits=6\n"));
        }
        service.push_str("account required pam_permit.so\n");
        let file = PathBuf::from("/etc/pam.d").join(&name);
        std::fs::write(&file, service).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
        Self { name, file }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for PamService {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
