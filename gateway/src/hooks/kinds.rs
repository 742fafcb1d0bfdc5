//! The hooks of a server, each with its contract.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tessera_proto::Secret;
use zeroize::Zeroizing;

use super::env::printable;
use super::{Answer, Env, HookDir, HookFile, HookHandle};
use crate::config::{AuthHook, CredentialsVia, HookCommand};

/// Largest file that `client-connect` may write.
const MAX_CONNECT_FILE: u64 = 64 * 1024;

/// Largest file with a deferred answer: one digit and a line end.
const DEFERRED_FILE: u64 = 16;
/// How often it is looked at.
const DEFERRED_POLL: Duration = Duration::from_millis(200);

/// Runs hooks for one shard: the queue, and where files go.
#[derive(Debug, Clone)]
pub struct Hook {
    handle: HookHandle,
    dir: Arc<HookDir>,
    /// How long a deferred answer may take.
    deferral: Duration,
}

/// A client's outer address, for the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Not logged in yet.
    Untrusted(SocketAddr),
    /// Logged in.
    Trusted(SocketAddr),
}

/// What a client was given, for the environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Its IPv4 address and netmask.
    pub v4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Its IPv6 address, the server's, and the prefix length.
    pub v6: Option<(Ipv6Addr, Ipv6Addr, u8)>,
}

impl Env {
    /// Outer address: `untrusted_*` or `trusted_*`.
    pub fn set_peer(&mut self, peer: Peer) -> &mut Self {
        let (prefix, address) = match peer {
            Peer::Untrusted(address) => ("untrusted", address),
            Peer::Trusted(address) => ("trusted", address),
        };
        let suffix = if address.is_ipv4() { "ip" } else { "ip6" };
        self.set(&format!("{prefix}_{suffix}"), address.ip().to_string());
        self.set(&format!("{prefix}_port"), address.port().to_string())
    }

    /// Inner addresses: `ifconfig_pool_*`.
    pub fn set_assigned(&mut self, assigned: &Assigned) -> &mut Self {
        if let Some((address, mask)) = assigned.v4 {
            self.set("ifconfig_pool_remote_ip", address.to_string());
            self.set("ifconfig_pool_netmask", mask.to_string());
        }
        if let Some((address, local, bits)) = assigned.v6 {
            self.set("ifconfig_pool_remote_ip6", address.to_string());
            self.set("ifconfig_pool_local_ip6", local.to_string());
            self.set("ifconfig_pool_ip6_netbits", bits.to_string());
        }
        self
    }

    /// When the client connected: `time_unix` and `time_ascii` (local time).
    pub fn set_time(&mut self, unix: u64) -> &mut Self {
        self.set("time_unix", unix.to_string());
        self.set("time_ascii", ascii_time(unix))
    }
}

impl Hook {
    /// Hooks that queue at `handle`, keep files in `dir`, and may put an answer off for `deferral`.
    #[must_use]
    pub const fn new(handle: HookHandle, dir: Arc<HookDir>, deferral: Duration) -> Self {
        Self {
            handle,
            dir,
            deferral,
        }
    }

    /// `auth-user-pass-verify`: user name and password by environment, or by a file of two lines.
    pub async fn auth_user_pass_verify(
        &self,
        hook: &AuthHook,
        mut env: Env,
        username: &str,
        password: &Secret<String>,
    ) -> Answer {
        let name = printable(username);
        env.set("script_type", "user-pass-verify")
            .set("username", name.clone());
        let (mut files, mut argv) = (Vec::new(), words(&hook.command));
        match hook.via {
            CredentialsVia::Env => {
                env.set("password", password.expose().clone());
            }
            CredentialsVia::File => {
                let lines = Zeroizing::new(format!("{name}\n{}\n", printable(password.expose())));
                match self.dir.file("credentials", lines.as_bytes()) {
                    Ok(file) => {
                        argv.push(file.path().into());
                        files.push(file);
                    }
                    Err(error) => return no_file("auth-user-pass-verify", &error),
                }
            }
        }
        match self.handle.run("auth-user-pass-verify", argv, env, files).await {
            Ok((outcome, _)) => outcome.answer(),
            Err(full) => no_queue("auth-user-pass-verify", full),
        }
    }

    /// `client-connect`: what it wrote into the file that is its last argument. `Err` is any other answer than yes.
    ///
    /// A hook that writes `2` into `client_connect_deferred_file` and exits with 0 has not answered yet: later it writes
    /// `1` (yes) or `0` (no) there.
    ///
    /// # Errors
    /// The answer, and nothing of the file.
    pub async fn client_connect(&self, command: &HookCommand, mut env: Env) -> Result<Vec<u8>, Answer> {
        let kind = "client-connect";
        let file = self
            .dir
            .file("connect", b"")
            .map_err(|error| no_file(kind, &error))?;
        let deferred = self
            .dir
            .file("deferred", b"")
            .map_err(|error| no_file(kind, &error))?;
        env.set("script_type", kind);
        env.set("client_connect_config_file", file.path().display().to_string());
        env.set(
            "client_connect_deferred_file",
            deferred.path().display().to_string(),
        );
        let mut argv = words(command);
        argv.push(file.path().into());
        let ran = self.handle.run(kind, argv, env, vec![file, deferred]).await;
        let (outcome, files) = ran.map_err(|full| no_queue(kind, full))?;
        match outcome.answer() {
            Answer::Allow => {}
            other => return Err(other),
        }
        let [file, deferred] = files.as_slice() else {
            return Err(Answer::NoAnswer);
        };
        self.deferred_answer(deferred).await?;
        file.read(MAX_CONNECT_FILE).map_err(|error| {
            tracing::warn!(hook = kind, "what it wrote cannot be used: {error}");
            Answer::Deny
        })
    }

    /// Waits while the file says `2`; an empty one says yes.
    async fn deferred_answer(&self, file: &HookFile) -> Result<(), Answer> {
        let wait = async {
            loop {
                match file.read(DEFERRED_FILE).unwrap_or_default().first() {
                    None | Some(b'1') => return Ok(()),
                    Some(b'2') => tokio::time::sleep(DEFERRED_POLL).await,
                    Some(_) => return Err(Answer::Deny),
                }
            }
        };
        tokio::time::timeout(self.deferral, wait)
            .await
            .unwrap_or(Err(Answer::NoAnswer))
    }

    /// `client-disconnect`; its answer changes nothing.
    pub async fn client_disconnect(&self, command: &HookCommand, mut env: Env) {
        env.set("script_type", "client-disconnect");
        if let Err(full) = self
            .handle
            .run("client-disconnect", words(command), env, Vec::new())
            .await
        {
            no_queue("client-disconnect", full);
        }
    }

    /// `learn-address add|update|delete ADDRESS [NAME]`.
    pub async fn learn_address(
        &self,
        command: &HookCommand,
        mut env: Env,
        operation: &'static str,
        address: &str,
        name: Option<&str>,
    ) -> Answer {
        env.set("script_type", "learn-address");
        let mut argv = words(command);
        argv.extend([operation.into(), address.into()]);
        argv.extend(name.map(|name| OsString::from(printable(name))));
        match self.handle.run("learn-address", argv, env, Vec::new()).await {
            Ok((outcome, _)) => outcome.answer(),
            Err(full) => no_queue("learn-address", full),
        }
    }

    /// `tls-verify DEPTH SUBJECT`, once for each certificate of the chain.
    pub async fn tls_verify(
        &self,
        command: &HookCommand,
        mut env: Env,
        depth: usize,
        subject: &str,
    ) -> Answer {
        env.set("script_type", "tls-verify");
        let mut argv = words(command);
        argv.extend([
            OsString::from(depth.to_string()),
            OsString::from(printable(subject)),
        ]);
        match self.handle.run("tls-verify", argv, env, Vec::new()).await {
            Ok((outcome, _)) => outcome.answer(),
            Err(full) => no_queue("tls-verify", full),
        }
    }

    /// `tls-crypt-v2-verify`: the metadata in a file.
    pub async fn tls_crypt_v2_verify(
        &self,
        command: &HookCommand,
        mut env: Env,
        metadata_type: u8,
        metadata: &[u8],
    ) -> Answer {
        let kind = "tls-crypt-v2-verify";
        let file = match self.dir.file("metadata", metadata) {
            Ok(file) => file,
            Err(error) => return no_file(kind, &error),
        };
        env.set("script_type", kind)
            .set("metadata_type", metadata_type.to_string());
        env.set("metadata_file", file.path().display().to_string());
        match self.handle.run(kind, words(command), env, vec![file]).await {
            Ok((outcome, _)) => outcome.answer(),
            Err(full) => no_queue(kind, full),
        }
    }
}

fn words(command: &HookCommand) -> Vec<OsString> {
    command.argv.iter().map(OsString::from).collect()
}

fn no_file(kind: &'static str, error: &io::Error) -> Answer {
    tracing::warn!(hook = kind, "no file for the hook: {error}");
    Answer::NoAnswer
}

fn no_queue(kind: &'static str, full: super::QueueFull) -> Answer {
    tracing::warn!(hook = kind, "hook was not run: {full}");
    Answer::NoAnswer
}

/// `YYYY-MM-DD hh:mm:ss` in local time.
fn ascii_time(unix: u64) -> String {
    let seconds = libc::time_t::try_from(unix).unwrap_or(libc::time_t::MAX);
    // SAFETY: all-zero is a valid `tm`.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of this frame; the call fills `tm` and keeps neither.
    if unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null() {
        return String::new();
    }
    let (year, month) = (tm.tm_year + 1900, tm.tm_mon + 1);
    format!(
        "{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}",
        tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec
    )
}
