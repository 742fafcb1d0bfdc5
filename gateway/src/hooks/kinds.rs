//! The hooks of a server, each with its contract.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tessera_proto::Secret;
use zeroize::Zeroizing;

use super::env::printable;
use super::runner::{JobFile, Program, Ran};
use super::stats::HookKind;
use super::{
    Answer, AuthAnswer, ConnectFile, Connecting, Deferral, DeferralError, Env, Farewell, HookHandle,
};
use crate::config::{AuthHook, CredentialsVia, HookCommand};

/// Longest response to a challenge; control messages are no longer.
const MAX_RESPONSE: usize = 2048;

/// Runs hooks for one shard.
#[derive(Debug, Clone)]
pub struct Hook {
    handle: HookHandle,
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
    /// Outer address: `untrusted_*`, and `trusted_*` too once the client has logged in.
    pub fn set_peer(&mut self, peer: Peer) -> &mut Self {
        if !self.is_read() {
            return self;
        }
        let (prefixes, address): (&[&str], _) = match peer {
            Peer::Untrusted(address) => (&["untrusted"], address),
            // OpenVPN leaves the variables of the handshake in place.
            Peer::Trusted(address) => (&["untrusted", "trusted"], address),
        };
        let ip = address.ip().to_canonical();
        let suffix = if ip.is_ipv4() { "ip" } else { "ip6" };
        for prefix in prefixes {
            self.set(&format!("{prefix}_{suffix}"), ip.to_string());
            self.set(&format!("{prefix}_port"), address.port().to_string());
        }
        self
    }

    /// Inner addresses: `ifconfig_pool_*`.
    pub fn set_assigned(&mut self, assigned: &Assigned) -> &mut Self {
        if !self.is_read() {
            return self;
        }
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
        if !self.is_read() {
            return self;
        }
        self.set("time_unix", unix.to_string());
        self.set("time_ascii", ascii_time(unix))
    }
}

impl Hook {
    /// Hooks that queue at `handle`.
    #[must_use]
    pub const fn new(handle: HookHandle) -> Self {
        Self { handle }
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> &super::HookStats {
        self.handle.stats()
    }

    /// Files in which an authenticator that is no hook (a plugin) may answer later, for one login.
    ///
    /// # Errors
    /// When too many logins wait already, the files cannot be made, or the gateway stops.
    pub async fn deferral(&self) -> Result<Deferral, DeferralError> {
        self.handle.deferral().await
    }

    /// A file in which a plugin may write what `client-connect` writes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect_file(&self) -> io::Result<ConnectFile> {
        ConnectFile::create(Arc::clone(&self.handle.dir)).await
    }

    /// `auth-user-pass-verify`: user name and password by environment, or by a file of two lines. Exit code 0 is yes, 2 that
    /// the answer comes later, and any other no.
    pub async fn auth_user_pass_verify(
        &self,
        hook: &AuthHook,
        mut env: Env,
        username: &str,
        password: &Secret<String>,
    ) -> AuthAnswer {
        let name = printable(username);
        env.set("script_type", "user-pass-verify").set("username", name.clone());
        let mut file = None;
        match hook.via {
            CredentialsVia::Env => {
                env.set("password", password.expose().clone());
            }
            CredentialsVia::File => {
                let secret = Zeroizing::new(printable(password.expose()));
                let lines = Zeroizing::new(format!("{name}\n{}\n", *secret));
                file = Some(JobFile {
                    name: "credentials",
                    content: Zeroizing::new(lines.as_bytes().to_vec()),
                    last_argument: true,
                    ..JobFile::default()
                });
            }
        }
        let kind = HookKind::AuthUserPassVerify;
        let program = Program { file, ..Program::new(kind, words(&hook.command), env) };
        match self.handle.run(program).await {
            Ok(Ran::Auth(answer)) => answer,
            // Only an answer to this question is one.
            Ok(_) => AuthAnswer::NoAnswer,
            Err(refused) => {
                refused.answer(kind);
                AuthAnswer::NoAnswer
            }
        }
    }

    /// `client-crresponse FILE`: the client's response to a challenge, as it came (base64), for the authenticator that waits in
    /// `deferral`. Exit code 0 says only that the response was taken; the verdict is written into the deferral's files, now or
    /// later. Any other exit code is a no, for which [`Deferral::reason`] may have words.
    pub async fn client_crresponse(
        &self,
        command: &HookCommand,
        mut env: Env,
        response: &Secret<String>,
        deferral: &Deferral,
    ) -> Answer {
        let kind = HookKind::ClientCrresponse;
        if response.expose().len() > MAX_RESPONSE {
            tracing::warn!(hook = kind.directive(), "response of more than {MAX_RESPONSE} bytes: refused");
            return Answer::Deny;
        }
        env.set("script_type", kind.directive());
        deferral.export(&mut env);
        let line = Zeroizing::new(printable(response.expose()));
        let mut content = Zeroizing::new(Vec::with_capacity(line.len() + 1));
        content.extend_from_slice(line.as_bytes());
        content.push(b'\n');
        let file = JobFile { name: "response", content, last_argument: true, ..JobFile::default() };
        self.answer(kind, words(command), env, Some(file)).await
    }

    /// Starts `client-connect`. With `disconnect`, each yes comes with a [`Farewell`] that sees to it that `client-disconnect` is
    /// run once.
    ///
    /// A hook that writes `2` into `client_connect_deferred_file` and exits with 0 has not answered yet: later it writes
    /// `1` (yes) or `0` (no) there.
    pub fn start_client_connect(
        &self,
        command: &HookCommand,
        mut env: Env,
        disconnect: Option<&HookCommand>,
    ) -> Connecting {
        let kind = HookKind::ClientConnect;
        let farewell =
            disconnect.map(|command| Farewell::new(self.handle.clone(), words(command), env.clone()));
        env.set("script_type", kind.directive());
        let file = Some(JobFile {
            name: "connect",
            last_argument: true,
            variable: Some("client_connect_config_file"),
            ..JobFile::default()
        });
        let program = Program { file, farewell, ..Program::new(kind, words(command), env) };
        Connecting { ran: Some(self.handle.start(program)) }
    }

    /// A `client-disconnect` that is owed from now on, where there is no `client-connect`.
    pub fn owe_client_disconnect(&self, command: &HookCommand, env: Env) -> Farewell {
        let mut farewell = Farewell::new(self.handle.clone(), words(command), env);
        farewell.owe();
        farewell
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
        let kind = HookKind::LearnAddress;
        env.set("script_type", kind.directive());
        let mut argv = words(command);
        argv.extend([operation.into(), address.into()]);
        argv.extend(name.map(|name| OsString::from(printable(name))));
        self.answer(kind, argv, env, None).await
    }

    /// `tls-verify DEPTH SUBJECT`, once for each certificate of the chain.
    pub async fn tls_verify(
        &self,
        command: &HookCommand,
        mut env: Env,
        depth: usize,
        subject: &str,
    ) -> Answer {
        let kind = HookKind::TlsVerify;
        env.set("script_type", kind.directive());
        let mut subject = printable(subject);
        if subject.starts_with('-') {
            // As with OpenVPN: a subject must not be taken for an option.
            subject.replace_range(..1, "_");
        }
        let mut argv = words(command);
        argv.extend([depth.to_string().into(), subject.into()]);
        self.answer(kind, argv, env, None).await
    }

    /// `tls-crypt-v2-verify`: the metadata in a file.
    pub async fn tls_crypt_v2_verify(
        &self,
        command: &HookCommand,
        mut env: Env,
        metadata_type: u8,
        metadata: &[u8],
    ) -> Answer {
        let kind = HookKind::TlsCryptV2Verify;
        env.set("script_type", kind.directive()).set("metadata_type", metadata_type.to_string());
        let file = JobFile {
            name: "metadata",
            content: Zeroizing::new(metadata.to_vec()),
            variable: Some("metadata_file"),
            ..JobFile::default()
        };
        self.answer(kind, words(command), env, Some(file)).await
    }

    async fn answer(&self, kind: HookKind, argv: Vec<OsString>, env: Env, file: Option<JobFile>) -> Answer {
        match self.handle.run(Program { file, ..Program::new(kind, argv, env) }).await {
            Ok(ran) => ran.answer(),
            Err(refused) => refused.answer(kind),
        }
    }
}

fn words(command: &HookCommand) -> Vec<OsString> {
    command.argv.iter().map(OsString::from).collect()
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
    format!("{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}", tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec)
}
