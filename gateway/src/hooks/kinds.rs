//! The hooks of a server, each with its contract.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tessera_proto::Secret;
use zeroize::Zeroizing;

use super::env::printable;
use super::runner::JobFile;
use super::{Answer, Env, HookDir, HookHandle};
use crate::config::{AuthHook, CredentialsVia, HookCommand};

/// Largest file that `client-connect` may write.
const MAX_CONNECT_FILE: usize = 64 * 1024;

/// Runs hooks for one shard: the queue, and where files go.
#[derive(Debug, Clone)]
pub struct Hook {
    handle: HookHandle,
    dir: Arc<HookDir>,
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
    /// Hooks that queue at `handle` and keep files in `dir`.
    #[must_use]
    pub const fn new(handle: HookHandle, dir: Arc<HookDir>) -> Self {
        Self { handle, dir }
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
        env.set("script_type", "user-pass-verify").set("username", name.clone());
        let mut file = None;
        match hook.via {
            CredentialsVia::Env => {
                env.set("password", password.expose().clone());
            }
            CredentialsVia::File => {
                let lines = Zeroizing::new(format!("{name}\n{}\n", printable(password.expose())));
                file = Some(JobFile {
                    name: "credentials",
                    content: Zeroizing::new(lines.as_bytes().to_vec()),
                    last_argument: true,
                    ..self.empty_file()
                });
            }
        }
        self.answer("auth-user-pass-verify", words(&hook.command), env, file).await
    }

    /// `client-connect`: what it wrote into the file that is its last argument. `Err` is any other answer than yes.
    ///
    /// A hook that writes `2` into `client_connect_deferred_file` and exits with 0 has not answered yet: later it writes
    /// `1` (yes) or `0` (no) there.
    ///
    /// # Errors
    /// The answer, and nothing of the file.
    pub async fn client_connect(
        &self,
        command: &HookCommand,
        mut env: Env,
    ) -> Result<Zeroizing<Vec<u8>>, Answer> {
        let kind = "client-connect";
        env.set("script_type", kind);
        let file = JobFile {
            name: "connect",
            last_argument: true,
            variable: Some("client_connect_config_file"),
            read_back: Some(MAX_CONNECT_FILE),
            deferral: Some("client_connect_deferred_file"),
            ..self.empty_file()
        };
        let ran = self
            .handle
            .run(kind, words(command), env, Some(file))
            .await
            .map_err(|full| no_queue(kind, full))?;
        match (ran.outcome.answer(), ran.written) {
            (Answer::Allow, Some(Ok(content))) => Ok(content),
            (Answer::Allow, fault) => {
                if let Some(Err(error)) = fault {
                    tracing::warn!(hook = kind, "what it wrote cannot be used: {error}");
                }
                Err(Answer::Deny)
            }
            (other, _) => Err(other),
        }
    }

    /// `client-disconnect`; its answer changes nothing.
    pub async fn client_disconnect(&self, command: &HookCommand, mut env: Env) {
        env.set("script_type", "client-disconnect");
        if let Err(full) = self.handle.run("client-disconnect", words(command), env, None).await {
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
        self.answer("learn-address", argv, env, None).await
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
        let mut subject = printable(subject);
        if subject.starts_with('-') {
            // As with OpenVPN: a subject must not be taken for an option.
            subject.replace_range(..1, "_");
        }
        let mut argv = words(command);
        argv.extend([depth.to_string().into(), subject.into()]);
        self.answer("tls-verify", argv, env, None).await
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
        env.set("script_type", kind).set("metadata_type", metadata_type.to_string());
        let file = JobFile {
            name: "metadata",
            content: Zeroizing::new(metadata.to_vec()),
            variable: Some("metadata_file"),
            ..self.empty_file()
        };
        self.answer(kind, words(command), env, Some(file)).await
    }

    async fn answer(
        &self,
        kind: &'static str,
        argv: Vec<OsString>,
        env: Env,
        file: Option<JobFile>,
    ) -> Answer {
        match self.handle.run(kind, argv, env, file).await {
            Ok(ran) => ran.outcome.answer(),
            Err(full) => no_queue(kind, full),
        }
    }

    fn empty_file(&self) -> JobFile {
        JobFile {
            dir: Arc::clone(&self.dir),
            name: "",
            content: Zeroizing::default(),
            last_argument: false,
            variable: None,
            read_back: None,
            deferral: None,
        }
    }
}

fn words(command: &HookCommand) -> Vec<OsString> {
    command.argv.iter().map(OsString::from).collect()
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
    format!("{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}", tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec)
}
