//! What is special about one client: its ccd file and what `client-connect` wrote, as edits of the common options.
//!
//! A line that is not legal there, or not well formed, is reported and left out; the client still connects. Two things
//! refuse it: `disable`, and a token that it could not use.

mod ccd;
mod parse;
mod push;

pub use ccd::{CcdFile, find as find_ccd};
pub use parse::parse;
pub use push::{PushEdit, apply};

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tessera_proto::{Cipher, Secret};

use crate::routes::Prefix;

/// One client's own configuration.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// Edits of the push list, in order.
    pub push: Vec<PushEdit>,
    /// Networks behind the client.
    pub iroutes: Vec<Prefix>,
    /// Static address and netmask.
    pub ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Static address and prefix length, and the gateway that the client is told.
    pub ifconfig_ipv6: Option<(Ipv6Addr, u8, Option<Ipv6Addr>)>,
    /// The client is refused.
    pub disable: bool,
    /// Ciphers for this client.
    pub ciphers: Option<Vec<Cipher>>,
    /// `inactive`: time, and bytes that count as activity.
    pub inactive: Option<(Duration, u64)>,
    /// `session-timeout`.
    pub session_timeout: Option<Duration>,
    /// `ping`.
    pub ping: Option<Duration>,
    /// `ping-restart` or `ping-exit`.
    pub ping_restart: Option<Duration>,
    /// `max-routes-per-client`.
    pub max_routes: Option<u32>,
    /// The token that replaces its password.
    pub token: Option<Secret<String>>,
    /// The user name that goes with it, in clear.
    pub token_user: Option<String>,
    /// What is wrong with a token, until its line is known.
    token_fault: Option<&'static str>,
    /// The client must be refused, for this reason; it names no secret.
    pub fault: Option<String>,
}

impl Overlay {
    /// Adds what a later source says: lists grow, single values are replaced.
    pub fn merge(&mut self, later: Self) {
        self.push.extend(later.push);
        self.iroutes.extend(later.iroutes);
        self.disable |= later.disable;
        self.ifconfig = later.ifconfig.or(self.ifconfig);
        self.ifconfig_ipv6 = later.ifconfig_ipv6.or(self.ifconfig_ipv6);
        self.inactive = later.inactive.or(self.inactive);
        self.session_timeout = later.session_timeout.or(self.session_timeout);
        self.ping = later.ping.or(self.ping);
        self.ping_restart = later.ping_restart.or(self.ping_restart);
        self.max_routes = later.max_routes.or(self.max_routes);
        self.ciphers = later.ciphers.or_else(|| self.ciphers.take());
        self.token = later.token.or_else(|| self.token.take());
        self.token_user = later.token_user.or_else(|| self.token_user.take());
        self.fault = self.fault.take().or(later.fault);
    }
}
