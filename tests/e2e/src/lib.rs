//! What most end-to-end cases have in common: a network with a PKI, recorded hooks, and a gateway on which users log in.

use std::os::unix::fs::PermissionsExt;

use tessera_harness::{ClientConfig, Hooks, Identity, Net, Pki, Version};

mod ours;

pub use ours::{OurClient, OurSession, Outcome};
pub use tessera_harness as harness;

/// The one password that the hooks of [`Site`] accept, besides the token.
pub const PASSWORD: &str = "open sesame";
/// The token that the client-connect hook of [`Site`] pushes.
pub const TOKEN: &str = "TESSERA_TOKEN_3q2-7wAx";

/// A network, its certificate authority and the folder of hooks. Declare it before servers and clients, so that it goes
/// last.
#[derive(Debug)]
pub struct Site {
    /// The network.
    pub net: Net,
    /// The authority that server and clients trust.
    pub pki: Pki,
    /// The hooks.
    pub hooks: Hooks,
}

impl Site {
    /// A site with `clients` clients.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        let net = Net::new(clients);
        let hooks = Hooks::new(net.folder());
        Self { net, pki: Pki::new("Tessera test CA"), hooks }
    }

    /// The plain server config: a certificate of our authority is all a client needs.
    #[must_use]
    pub fn server(&self) -> harness::ServerConfig {
        harness::ServerConfig::new(&self.net, &self.pki)
    }

    /// The server config with the login of [`Site::login_hooks`]: hooks `verify`, `connect` and `disconnect`.
    #[must_use]
    pub fn login_server(&self) -> harness::ServerConfig {
        let [verify, connect, disconnect] = self.login_hooks();
        self.server()
            .line(format!("auth-user-pass-verify {verify} via-file"))
            .line(format!("client-connect {connect}"))
            .line(format!("client-disconnect {disconnect}"))
    }

    /// The server config with hooks `verify` (which accepts [`PASSWORD`] only), `connect` and `disconnect`, tokens of
    /// `auth-gen-token ARGUMENTS`, and the key that they are signed with.
    #[must_use]
    pub fn token_server(&self, arguments: &str) -> (harness::ServerConfig, harness::TokenKey) {
        let secret = harness::genkey(&self.net, "auth-token", "auth-token.key", None);
        let key = harness::TokenKey::read(&secret);
        let config = self
            .hooked_server(&self.accepting(&[PASSWORD]))
            .line(format!("auth-gen-token {arguments}"))
            .line(format!("auth-gen-token-secret {secret}"));
        (config, key)
    }

    /// The server config with users of the gateway's own file, generated tokens, and the control socket of `cli`.
    #[must_use]
    pub fn account_server(&self, cli: &harness::Cli) -> harness::ServerConfig {
        let users = self.net.write("users", "");
        std::fs::set_permissions(&users, PermissionsExt::from_mode(0o600)).expect("a private file");
        self.server()
            .own("auth-file", &users)
            .own("control-socket", cli.socket())
            .line("auth-gen-token 0")
            .line(format!("client-connect {}", self.hooks.script("connect", "exit 0")))
            .line(format!("client-disconnect {}", self.hooks.script("disconnect", "exit 0")))
    }

    /// The server config with the hook `verify` as given, and hooks `connect` and `disconnect` that only record.
    #[must_use]
    pub fn hooked_server(&self, verify: &str) -> harness::ServerConfig {
        self.server()
            .line(format!("auth-user-pass-verify {verify} via-file"))
            .line(format!("client-connect {}", self.hooks.script("connect", "exit 0")))
            .line(format!("client-disconnect {}", self.hooks.script("disconnect", "exit 0")))
    }

    /// `verify` accepts [`PASSWORD`] and [`TOKEN`], `connect` pushes [`TOKEN`], `disconnect` only records.
    #[must_use]
    pub fn login_hooks(&self) -> [String; 3] {
        let verify = self.accepting(&[PASSWORD, TOKEN]);
        let connect = self.hooks.script("connect", &format!("echo 'push \"auth-token {TOKEN}\"' >\"$last\""));
        [verify, connect, self.hooks.script("disconnect", "exit 0")]
    }

    /// (Re)writes the hook `verify` so that it accepts these passwords only. Gives its path.
    pub fn accepting(&self, passwords: &[&str]) -> String {
        let patterns = passwords.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join("|");
        let accept = if patterns.is_empty() { String::new() } else { format!("{patterns}) exit 0;;") };
        self.hooks.script("verify", &format!("case \"$(sed -n 2p \"$last\")\" in {accept} *) exit 1;; esac"))
    }

    /// The passwords (or tokens) that the hook `verify` was asked about so far, oldest first.
    #[must_use]
    pub fn passwords_seen(&self) -> Vec<String> {
        let calls = self.hooks.calls("verify");
        let second_line = |call: &harness::Call| call.file.as_ref()?.lines().nth(1).map(str::to_owned);
        calls.iter().map(|call| second_line(call).expect("a file with user and password")).collect()
    }

    /// Client `index` with a certificate named `client-<index>`.
    #[must_use]
    pub fn client(&self, index: usize, version: Version) -> ClientConfig {
        ClientConfig::new(&self.net, index, version).identity(&self.net, &self.identity(index))
    }

    /// As [`Site::client`], with the login `user-<index>` and [`PASSWORD`].
    #[must_use]
    pub fn login_client(&self, index: usize, version: Version) -> ClientConfig {
        self.client(index, version).login(&self.net, &format!("user-{index}"), PASSWORD)
    }

    /// A certificate named `client-<index>`.
    #[must_use]
    pub fn identity(&self, index: usize) -> Identity {
        self.pki.client(&format!("client-{index}"), 100 + index as u64)
    }
}

/// Makes two tests of each function: with the stock clients 2.6 and 2.7.
#[macro_export]
macro_rules! stock_clients {
    ($($case:ident),+ $(,)?) => { $(
        mod $case {
            use $crate::harness::Version;
            #[test]
            fn client_2_6() {
                super::$case(Version::V2_6);
            }
            #[test]
            fn client_2_7() {
                super::$case(Version::V2_7);
            }
        }
    )+ };
}
