//! What can be settled only when every directive is known: macros, listeners, and the checks across directives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Draft, GenTokenTimes, Local, Placed, Proto, ProtoFamily};
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::model::{
    CertificatePolicy, Config, CredentialsVia, GenToken, HookCommand, Ifconfig4, Ifconfig6, KeyDirection,
    Listener, MssFix, Pool4, Pool6, Protocol, ScriptSecurity, TokenVerify, Wrap, mask4,
};

/// OpenVPN's port.
const DEFAULT_PORT: u16 = 1194;
/// The tunnel MTU for which the default MSS bound is known to fit an ethernet path.
const ETHERNET_MTU: u16 = 1500;

/// How often generated tokens are renewed when neither the directive nor 'reneg-sec' says so: OpenVPN's default of the latter.
const TOKEN_RENEWAL: Duration = Duration::from_secs(3600);

/// Resolves the draft; what is wrong is added to its problems, which come back with the configuration.
pub(in crate::config) fn finish(mut draft: Draft) -> (Config, Vec<Diagnostic>) {
    mode(&mut draft);
    network4(&mut draft);
    network6(&mut draft);
    pools(&mut draft);
    keepalive(&mut draft);
    listeners(&mut draft);
    tcp(&mut draft);
    sizes(&mut draft);
    wrap(&mut draft);
    trust(&mut draft);
    tokens(&mut draft);
    accounts(&mut draft);
    hooks(&mut draft);
    if let (Some(version), Some(status)) = (draft.status_version, &mut draft.config.process.status) {
        status.version = version;
    }
    (draft.config, draft.problems)
}

impl Draft {
    fn error(&mut self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Diagnostic::error(place, message).hint(hint));
    }

    fn warn(&mut self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Diagnostic::warning(place, message).hint(hint));
    }

    /// Adds a pushed option unless the very same is there.
    fn push(&mut self, option: String) {
        if !self.config.push.contains(&option) {
            self.config.push.push(option);
        }
    }

    fn pushes(&self, name: &str) -> bool {
        self.config.push.iter().any(|option| option.split_whitespace().next() == Some(name))
    }

    fn place_of(&self, name: &str) -> Place {
        self.given(name).cloned().unwrap_or(Place::Whole)
    }
}

fn mode(draft: &mut Draft) {
    let long_form = draft.mode_server && draft.tls_server;
    if draft.server.is_none() && draft.server6.is_none() && !long_form {
        let hint = "add 'server 10.8.0.0 255.255.255.0', or 'mode server' with 'tls-server'";
        draft.error(&Place::Whole, "this is not a server configuration", hint);
    }
}

fn network4(draft: &mut Draft) {
    let Some(Placed { value: (network, prefix, nopool), place }) = draft.server.clone() else {
        if draft.mode_server && draft.config.network.ifconfig.is_some() {
            draft.push("topology subnet".to_owned());
        }
        if let Some(gateway) = draft.route_gateway {
            draft.push(format!("route-gateway {gateway}"));
        }
        return;
    };
    for name in ["ifconfig", "ifconfig-pool"] {
        if name == "ifconfig-pool" && nopool {
            continue;
        }
        if let Some(other) = draft.given(name).cloned() {
            let hint = "use 'server … nopool' for a pool of your own, or the long form with 'mode server'";
            draft.error(&other, format!("{name} and server both set the addresses"), hint);
        }
    }
    let local = Ipv4Addr::from_bits(network.to_bits() + 1);
    let ifconfig = Ifconfig4 { local, prefix };
    draft.config.network.ifconfig = Some(ifconfig);
    if !nopool {
        let first = Ipv4Addr::from_bits(network.to_bits() + 2);
        let last = Ipv4Addr::from_bits(ifconfig.broadcast().to_bits() - 1);
        draft.pool = Some(Placed { value: (first, last, Some(ifconfig.netmask())), place });
    }
    draft.push("topology subnet".to_owned());
    let gateway = draft.route_gateway.unwrap_or(local);
    if !draft.pushes("route-gateway") {
        draft.push(format!("route-gateway {gateway}"));
    }
}

fn network6(draft: &mut Draft) {
    let Some(Placed { value: (network, prefix), .. }) = draft.server6.clone() else {
        return;
    };
    for name in ["ifconfig-ipv6", "ifconfig-ipv6-pool"] {
        if let Some(other) = draft.given(name).cloned() {
            draft.error(&other, format!("{name} and server-ipv6 both set the addresses"), "keep one of them");
        }
    }
    let at = |offset: u128| Ipv6Addr::from_bits(network.to_bits() + offset);
    draft.config.network.ifconfig6 = Some(Ifconfig6 { local: at(1), prefix, remote: at(2) });
    // Small networks have no room below 0x1000.
    let first = at(if prefix < 112 { 0x1000 } else { 2 });
    draft.config.network.pool6 = Some(Pool6 { first, prefix });
    draft.push("tun-ipv6".to_owned());
}

fn pools(draft: &mut Draft) {
    if let Some(Placed { value: (first, last, mask), place }) = draft.pool.clone() {
        match draft.config.network.ifconfig {
            None => draft.error(
                &place,
                "a pool without the gateway's own address",
                "add 'ifconfig ADDRESS NETMASK'",
            ),
            Some(own) => check_pool4(draft, own, first, last, mask, &place),
        }
    }
    let Some(pool) = draft.config.network.pool6 else {
        return;
    };
    let place = draft.place_of(if draft.server6.is_some() { "server-ipv6" } else { "ifconfig-ipv6-pool" });
    match draft.config.network.ifconfig6 {
        None => {
            let hint = "add 'ifconfig-ipv6 ADDRESS/BITS REMOTE'";
            draft.error(&place, "an IPv6 pool without the gateway's own IPv6 address", hint);
        }
        Some(own) if !own.contains(pool.first) => {
            draft.error(
                &place,
                format!("the IPv6 pool is not in {}/{}", own.network(), own.prefix),
                "move it there",
            );
        }
        Some(own)
            if own.local >= pool.first
                && own.local.to_bits() - pool.first.to_bits() < u128::from(pool.len()) =>
        {
            draft.error(
                &place,
                format!("the IPv6 pool holds the gateway's own address {}", own.local),
                "begin behind it",
            );
        }
        Some(_) => warn_small_pool(draft, pool.len(), &place),
    }
}

fn check_pool4(
    draft: &mut Draft,
    own: Ifconfig4,
    first: Ipv4Addr,
    last: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    place: &Place,
) {
    let netmask = mask.unwrap_or_else(|| mask4(own.prefix));
    let pool = Pool4 { first, last, netmask };
    draft.config.network.pool = Some(pool);
    if !own.contains(first) || !own.contains(last) {
        let message = format!("the pool {first}-{last} is not in {}/{}", own.network(), own.prefix);
        draft.error(place, message, "begin and end inside the network of ifconfig");
    } else if (first..=last).contains(&own.local) {
        let message = format!("the pool {first}-{last} holds the gateway's own address {}", own.local);
        draft.error(place, message, "leave it out of the pool");
    } else if own.prefix < 31 && (first == own.network() || last == own.broadcast()) {
        let message = format!("the pool {first}-{last} holds the network's first or last address");
        draft.error(place, message, "neither can be a client's");
    } else {
        warn_small_pool(draft, pool.len(), place);
    }
}

fn warn_small_pool(draft: &mut Draft, len: u32, place: &Place) {
    let clients = draft.config.limits.max_clients;
    // The default of max-clients is nobody's wish: only a number that was written down is held against the pool.
    if draft.given("max-clients").is_some() && clients > len {
        let message = format!("max-clients is {clients}, but the pool has {len} addresses");
        draft.warn(
            place,
            message,
            "clients beyond the pool are turned away unless they have addresses of their own",
        );
    }
}

fn keepalive(draft: &mut Draft) {
    let Some(Placed { value: (ping, restart), place }) = draft.keepalive.clone() else {
        return;
    };
    for name in ["ping", "ping-restart"] {
        if draft.given(name).is_some() {
            draft.error(&place, format!("keepalive and {name} set the same timer"), "keep one of them");
        }
    }
    draft.config.timers.ping = Some(Duration::from_secs(ping));
    // Twice the client's, so that a client always notices first.
    draft.config.timers.ping_restart = Some(Duration::from_secs(2 * restart));
    draft.push(format!("ping {ping}"));
    draft.push(format!("ping-restart {restart}"));
}

fn listeners(draft: &mut Draft) {
    let mut locals = std::mem::take(&mut draft.locals);
    if locals.is_empty() {
        let place = draft.given("port").or_else(|| draft.given("lport")).or_else(|| draft.given("proto"));
        let place = place.cloned().unwrap_or(Place::Whole);
        locals.push(Placed { value: Local { address: None, port: None, proto: None }, place });
    }
    for Placed { value: local, place } in locals {
        let port = local.port.or(draft.port).unwrap_or(DEFAULT_PORT);
        let proto = local.proto.or(draft.proto).unwrap_or(Proto::DEFAULT);
        if let Some(address) = local.address.filter(|address| !proto.fits(*address)) {
            let wanted = if address.is_ipv4() { "IPv6" } else { "IPv4" };
            let message = format!("{address} is not an {wanted} address, and its proto serves no other");
            draft.error(&place, message, "use the proto without a number");
            continue;
        }
        let (address, ipv4_fallback) = match (local.address, proto.family) {
            (Some(address), _) => (address, false),
            (None, ProtoFamily::V4) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), false),
            (None, ProtoFamily::V6) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), false),
            (None, ProtoFamily::Any) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), !draft.ipv6_only),
        };
        let address = SocketAddr::new(address, port);
        let same = |other: &Listener| other.address == address && other.protocol == proto.protocol;
        if draft.config.listeners.iter().any(same) {
            draft.error(&place, format!("{address} is listened on twice"), "keep one of them");
            continue;
        }
        draft.config.listeners.push(Listener {
            protocol: proto.protocol,
            address,
            ipv6_only: draft.ipv6_only && address.is_ipv6(),
            ipv4_fallback,
            device: draft.bind_device.clone(),
            place,
        });
    }
}

/// What concerns TCP listeners only.
fn tcp(draft: &mut Draft) {
    if !draft.config.listeners.iter().any(|listener| listener.protocol == Protocol::Tcp) {
        if let Some(place) = draft.given("port-share").cloned() {
            draft.error(
                &place,
                "port-share without a TCP listener",
                "add 'proto tcp-server', or a 'local' with it",
            );
        }
        for name in ["tcp-nodelay", "socket-flags", "tcp-queue-limit"] {
            if let Some(place) = draft.given(name).cloned() {
                let hint = "leave it out, or listen on TCP too";
                draft.warn(&place, format!("{name} has no effect: no listener is TCP"), hint);
            }
        }
        return;
    }
    if draft.push_nodelay {
        draft.push("socket-flags TCP_NODELAY".to_owned());
    }
    if let Some(share) = &draft.config.transport.port_share
        && let Ok(to) = share.host.parse::<IpAddr>()
        && draft.config.listeners.iter().any(|listener| {
            let ours = listener.address;
            let reached = ours.ip() == to || ours.ip().is_unspecified() && to.is_loopback();
            listener.protocol == Protocol::Tcp && ours.port() == share.port && reached
        })
    {
        let place = draft.place_of("port-share");
        draft.error(
            &place,
            "port-share leads back to the gateway",
            "name the other server's address and port",
        );
    }
}

fn sizes(draft: &mut Draft) {
    let mtu = draft.config.device.mtu;
    let transport = &mut draft.config.transport;
    transport.mssfix = draft.mssfix.unwrap_or_else(|| {
        if draft.places.contains_key("max-packet-size") {
            MssFix::Mtu(transport.max_packet_size)
        } else if mtu == ETHERNET_MTU {
            MssFix::Mtu(1492)
        } else {
            MssFix::Fixed(mtu)
        }
    });
}

fn wrap(draft: &mut Draft) {
    let given: Vec<&str> = [
        ("tls-auth", draft.tls_auth.is_some()),
        ("tls-crypt", draft.tls_crypt.is_some()),
        ("tls-crypt-v2", draft.tls_crypt_v2.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    // Stock servers can hold tls-crypt-v2 beside one of the others; one protection at a time is served here.
    if let [first, second, ..] = given[..] {
        let place = draft.place_of(second);
        draft.error(&place, format!("{first} and {second} exclude each other"), "keep one of them");
    }
    for name in ["tls-crypt-v2-verify", "tls-crypt-v2-max-age"] {
        if draft.tls_crypt_v2.is_none() && draft.given(name).is_some() {
            let place = draft.place_of(name);
            draft.error(
                &place,
                format!("{name} without tls-crypt-v2 would check nothing"),
                "add tls-crypt-v2",
            );
        }
    }
    if draft.tls_auth.is_some()
        && let Some(Placed { value, place }) = draft.unusable_auth.clone()
    {
        let message = format!("the digest '{value}' is not supported for tls-auth");
        draft.error(&place, message, "use SHA1, SHA256, SHA384 or SHA512 here and on all clients");
    }
    if draft.tls_auth.is_none() && draft.tls_auth_direction.is_some() {
        let place = draft.place_of("tls-auth");
        draft.error(&place, "tls-auth [inline] without a block <tls-auth>", "add the block");
    }
    draft.config.wrap = if let Some((key, cookie)) = draft.tls_crypt_v2.take() {
        Wrap::TlsCryptV2 { key, cookie, max_age: draft.tls_crypt_v2_max_age }
    } else if let Some(key) = draft.tls_crypt.take() {
        Wrap::TlsCrypt { key }
    } else if let Some(key) = draft.tls_auth.take() {
        let direction = draft.tls_auth_direction.or(draft.key_direction).unwrap_or_default();
        if direction == KeyDirection::Inverse {
            let place = draft.given("key-direction").cloned().unwrap_or_else(|| draft.place_of("tls-auth"));
            draft.warn(&place, "key direction 1 is usual for clients", "servers have 0, clients 1");
        }
        Wrap::TlsAuth { key, direction }
    } else {
        Wrap::None
    };
}

fn trust(draft: &mut Draft) {
    let tls = &draft.config.tls;
    let (cert, key) = (tls.cert.is_some(), tls.key.is_some());
    let trusts = tls.ca.is_some() || !tls.peer_fingerprints.is_empty();
    let versions = tls.version_min <= tls.version_max;
    let crl_alone = tls.crl.is_some() && tls.ca.is_none();
    if !cert {
        draft.error(&Place::Whole, "the gateway has no certificate", "add 'cert FILE' or <cert>…</cert>");
    }
    if !key {
        draft.error(&Place::Whole, "the gateway has no private key", "add 'key FILE' or <key>…</key>");
    }
    if !trusts && draft.config.auth.certificates != CertificatePolicy::None {
        let hint = "add 'ca FILE' or <ca>…</ca>, or 'peer-fingerprint'";
        draft.error(&Place::Whole, "nothing says which clients' certificates are trusted", hint);
    }
    if !versions {
        let place = draft.place_of("tls-version-max");
        draft.error(&place, "tls-version-max is below tls-version-min", "raise it or leave it out");
    }
    if crl_alone {
        let place = draft.place_of("crl-verify");
        draft.error(&place, "crl-verify without ca would check nothing", "add 'ca FILE'");
    }
    if draft.remote_cert_tls
        && (draft.given("remote-cert-eku").is_some() || draft.given("remote-cert-ku").is_some())
    {
        let place = draft.place_of("remote-cert-tls");
        draft.error(&place, "remote-cert-tls sets both key usages by itself", "keep it, or the other two");
    }
}

fn tokens(draft: &mut Draft) {
    let (secrets, bind_certificate) = (std::mem::take(&mut draft.gen_token_secrets), draft.bind_certificate);
    let Some(Placed { value: times, place }) = draft.gen_token.clone() else {
        for name in ["auth-gen-token-secret", "token-bind"] {
            if draft.given(name).is_some() {
                let place = draft.place_of(name);
                draft.error(&place, format!("{name} without auth-gen-token"), "add 'auth-gen-token'");
            }
        }
        return;
    };
    let shortest = draft.config.timers.hand_window * 2;
    if let Some(renewal) = times.renewal.filter(|renewal| *renewal < shortest) {
        let message = format!(
            "auth-gen-token: a renewal time of {} s is less than twice hand-window ({} s)",
            renewal.as_secs(),
            shortest.as_secs()
        );
        draft.error(&place, message, "raise it, or lower hand-window");
    }
    if bind_certificate && draft.config.auth.certificates == CertificatePolicy::None {
        let place = draft.place_of("token-bind");
        draft.error(&place, "token-bind certificate, but clients have none", "use 'token-bind user'");
    }
    // With 'reneg-sec 0', which is usual where a code is asked for, the renewal needs a time of its own.
    let renewal = times.renewal.or(draft.config.timers.reneg_max).unwrap_or(TOKEN_RENEWAL).max(shortest);
    let GenTokenTimes { lifetime, external_auth, .. } = times;
    draft.config.auth.gen_token =
        Some(GenToken { lifetime, renewal, external_auth, secrets, bind_certificate });
}

fn accounts(draft: &mut Draft) {
    let auth = &draft.config.auth;
    // What a plugin checks is known only when it has been opened; the start looks again.
    let asks_password = draft.config.hooks.auth_user_pass_verify.is_some()
        || auth.users.is_some()
        || auth.pam_service.is_some()
        || !draft.config.hooks.plugins.is_empty();
    let (policy, as_name) = (auth.certificates, auth.username_as_common_name);
    let hooks = &draft.config.hooks;
    let may_push =
        hooks.client_connect.is_some() || !hooks.plugins.is_empty() || auth.client_config_dir.is_some();
    let useless_cache = draft.config.tessera.token_verify == TokenVerify::Cache && !may_push;
    if auth.ccd_exclusive && auth.client_config_dir.is_none() {
        let place = draft.place_of("ccd-exclusive");
        draft.error(&place, "ccd-exclusive without client-config-dir", "add 'client-config-dir DIRECTORY'");
    }
    if useless_cache {
        let place = draft.place_of("token-verify");
        draft.warn(&place, "token-verify cache, but nothing pushes a token", "push one from client-connect");
    }
    if asks_password {
        return;
    }
    let hint = "add 'auth-user-pass-verify PROGRAM via-file', or 'auth-file FILE'";
    if let Some(place) = draft.given("auth-gen-token").cloned() {
        draft.error(&place, "auth-gen-token, but nothing checks passwords", hint);
    }
    if policy != CertificatePolicy::Require {
        let name = if draft.given("verify-client-cert").is_some() {
            "verify-client-cert"
        } else {
            "client-cert-not-required"
        };
        let place = draft.place_of(name);
        draft.error(&place, "clients without a certificate need a password, and nothing checks one", hint);
    }
    if as_name {
        let place = draft.place_of("username-as-common-name");
        draft.error(&place, "username-as-common-name, but nothing checks user names", hint);
    }
    if draft.config.auth.optional_credentials {
        let place = draft.place_of("auth-user-pass-optional");
        draft.error(&place, "auth-user-pass-optional, but nothing checks passwords", hint);
    }
}

fn hooks(draft: &mut Draft) {
    let hooks = &draft.config.hooks;
    let level = hooks.script_security;
    let via_env = hooks.auth_user_pass_verify.as_ref().is_some_and(|hook| hook.via == CredentialsVia::Env);
    let commands: Vec<(&str, HookCommand)> =
        hooks.commands().map(|(name, command)| (name, command.clone())).collect();
    let timeout = draft.config.tessera.hook_timeout;
    for (name, command) in commands {
        if level < ScriptSecurity::Hooks {
            draft.error(
                &command.place,
                format!("{name} is not run below script-security 2"),
                "add 'script-security 2'",
            );
        } else if name == "auth-user-pass-verify" && via_env && level < ScriptSecurity::Passwords {
            let hint = "use via-file, or 'script-security 3'";
            draft.error(
                &command.place,
                "a password in the environment (via-env) needs script-security 3",
                hint,
            );
        }
    }
    if timeout >= draft.config.timers.hand_window && draft.given("hook-timeout").is_some() {
        let place = draft.place_of("hook-timeout");
        draft.warn(&place, "hook-timeout is not below hand-window", "clients give up before the hook does");
    }
}
