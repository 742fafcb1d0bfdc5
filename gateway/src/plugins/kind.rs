//! What a plugin is called for.

/// A type of call, by its number in the plugin interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PluginKind {
    /// The device is up. Arguments: device, MTU, 0, local address, remote address or netmask, `init` or `restart`.
    Up = 0,
    /// The device goes down. Arguments as for [`Self::Up`].
    Down = 1,
    /// The routes are set.
    RouteUp = 2,
    /// A certificate of a client's chain. Arguments: depth, subject.
    TlsVerify = 4,
    /// User name and password, in the environment. May be deferred: the answer comes through `auth_control_file`.
    AuthUserPassVerify = 5,
    /// A client has logged in. Argument: the file that takes directives. May be deferred: `client_connect_deferred_file`.
    ClientConnect = 6,
    /// A client has gone.
    ClientDisconnect = 7,
    /// An inner address is added, updated or deleted. Arguments: operation, address, common name.
    LearnAddress = 8,
    /// A client has logged in; directives come back by value. May be deferred: asked for with
    /// [`Self::ClientConnectDeferV2`].
    ClientConnectV2 = 9,
    /// Last veto, after user name and password.
    TlsFinal = 10,
    /// The routes are about to go.
    RoutePredown = 12,
    /// Asks again after a deferred [`Self::ClientConnect`].
    ClientConnectDefer = 13,
    /// Asks again after a deferred [`Self::ClientConnectV2`].
    ClientConnectDeferV2 = 14,
    /// A client's answer to a challenge, in the environment as `crresponse`.
    ClientCrResponse = 15,
}

/// How many types of calls the interface knows, with those that a gateway never makes.
pub(super) const TYPES: usize = 16;
/// A new outer address of the server's own tunnel: means nothing to a server with clients, and is never called.
const IPCHANGE: u32 = 1 << 3;
/// The removed packet filter. Older plugins still ask for it; it was never called without being enabled.
const PACKET_FILTER: u32 = 1 << 11;

impl PluginKind {
    /// All that a gateway calls, by number.
    pub const ALL: [Self; 14] = [
        Self::Up,
        Self::Down,
        Self::RouteUp,
        Self::TlsVerify,
        Self::AuthUserPassVerify,
        Self::ClientConnect,
        Self::ClientDisconnect,
        Self::LearnAddress,
        Self::ClientConnectV2,
        Self::TlsFinal,
        Self::RoutePredown,
        Self::ClientConnectDefer,
        Self::ClientConnectDeferV2,
        Self::ClientCrResponse,
    ];

    /// The bit in a plugin's mask.
    pub(super) const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// The name in logs and statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::RouteUp => "route-up",
            Self::TlsVerify => "tls-verify",
            Self::AuthUserPassVerify => "auth-user-pass-verify",
            Self::ClientConnect => "client-connect",
            Self::ClientDisconnect => "client-disconnect",
            Self::LearnAddress => "learn-address",
            Self::ClientConnectV2 => "client-connect-v2",
            Self::TlsFinal => "tls-final",
            Self::RoutePredown => "route-pre-down",
            Self::ClientConnectDefer => "client-connect-defer",
            Self::ClientConnectDeferV2 => "client-connect-defer-v2",
            Self::ClientCrResponse => "client-crresponse",
        }
    }

    /// Whether the interface lets a plugin put this answer off.
    #[must_use]
    pub const fn deferrable(self) -> bool {
        matches!(
            self,
            Self::AuthUserPassVerify
                | Self::ClientConnect
                | Self::ClientConnectV2
                | Self::ClientConnectDefer
                | Self::ClientConnectDeferV2
        )
    }

    /// Whether a call is made even if nobody waits for its answer any more. The others are only there to answer.
    pub(super) const fn keeps_books(self) -> bool {
        matches!(
            self,
            Self::Up
                | Self::Down
                | Self::RouteUp
                | Self::RoutePredown
                | Self::ClientDisconnect
                | Self::LearnAddress
        )
    }
}

/// What plugins are told that can be had.
pub(super) fn supported() -> u32 {
    PluginKind::ALL.into_iter().fold(IPCHANGE | PACKET_FILTER, |mask, kind| mask | kind.bit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_interface() {
        assert_eq!(supported(), (1 << TYPES) - 1);
        assert_eq!(PluginKind::AuthUserPassVerify.bit(), 1 << 5);
        assert_eq!(PluginKind::ClientCrResponse.bit(), 1 << 15);
    }
}
