//! Handlers of addressing, pushing and routes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::{
    Draft, Effect, MAX_SECONDS, Outcome, Placed, bad, ipv4, ipv6_prefix, netmask, number, text, word,
};
use crate::config::diagnostic::Diagnostic;
use crate::config::lex::Directive;
use crate::config::model::{
    DeviceKind, Ifconfig4, Ifconfig6, Pool6, PoolPersist, Route4, Route6, Topology, mask4,
};

/// Longest device name: `IFNAMSIZ` without its NUL.
const MAX_DEVICE_NAME: usize = 15;
/// How often the address memory is rewritten unless told, as OpenVPN does.
const PERSIST_INTERVAL: u64 = 600;
/// Most options that are pushed to everybody: each costs push-message bytes on every connect.
const MAX_PUSH: usize = 1024;
/// Longest pushed option: it must fit one control message with room for the rest.
const MAX_PUSH_OPTION: usize = 512;
/// Most routes of the device.
const MAX_ROUTES: usize = 4096;

pub(crate) fn server(draft: &mut Draft, d: &Directive) -> Outcome {
    let (network, prefix) = (ipv4(d, 0)?, netmask(d, 1)?);
    let nopool = d.args.len() == 3 && word(d, 2, &[("nopool", true)])?;
    if !(8..=30).contains(&prefix) {
        return Err(bad(d, 1, "the network must be between /8 and /30"));
    }
    if network.to_bits() & !mask4(prefix).to_bits() != 0 {
        let net = Ipv4Addr::from_bits(network.to_bits() & mask4(prefix).to_bits());
        return Err(bad(d, 0, format!("{network} is not the first address of the network"))
            .hint(format!("write {net}")));
    }
    draft.server = Some(Placed { value: (network, prefix, nopool), place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn server_ipv6(draft: &mut Draft, d: &Directive) -> Outcome {
    let (network, prefix) = ipv6_prefix(d, 0)?;
    if !(64..=124).contains(&prefix) {
        return Err(bad(d, 0, "the network must be between /64 and /124"));
    }
    let first = Ifconfig6 { local: network, prefix, remote: network }.network();
    if first != network {
        return Err(bad(d, 0, format!("{network} is not the first address of the network"))
            .hint(format!("write {first}/{prefix}")));
    }
    draft.server6 = Some(Placed { value: (network, prefix), place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn mode(draft: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "server" => {
            draft.mode_server = true;
            Ok(Effect::Honoured)
        }
        "p2p" => Err(bad(d, 0, "point-to-point mode is not served").hint("use 'server' or 'mode server'")),
        other => Err(bad(d, 0, format!("'{other}' is not a mode")).hint("use 'mode server'")),
    }
}

pub(crate) fn tls_server(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.tls_server = true;
    Ok(Effect::Honoured)
}

pub(crate) fn topology(draft: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "subnet" => {
            draft.config.network.topology = Topology::Subnet;
            Ok(Effect::Honoured)
        }
        old @ ("net30" | "p2p") => Err(bad(d, 0, format!("topology {old} is not in this release"))
            .hint("use 'topology subnet'; every client since OpenVPN 2.1 knows it")),
        other => Err(bad(d, 0, format!("'{other}' is not a topology")).hint("use 'topology subnet'")),
    }
}

pub(crate) fn dev(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    let device = &mut draft.config.device;
    if name == "null" {
        device.kind = DeviceKind::Null;
        return Ok(Effect::Noted("no device: packets end in the gateway".to_owned()));
    }
    if name.starts_with("tap") {
        return Err(bad(d, 0, "ethernet (tap) is not supported").hint("use 'dev tun'"));
    }
    device.kind = DeviceKind::Tun;
    if name == "tun" {
        device.name = None;
        return Ok(Effect::Honoured);
    }
    let fits = !name.is_empty() && name.len() <= MAX_DEVICE_NAME && name != "." && name != "..";
    if !fits || name.contains(|c: char| c == '/' || c == ':' || c == '%' || !c.is_ascii_graphic()) {
        let message =
            format!("'{name}' is not a device name (1 to {MAX_DEVICE_NAME} letters, no '/' or ':')");
        return Err(bad(d, 0, message));
    }
    device.name = Some(name.to_owned());
    Ok(Effect::Honoured)
}

pub(crate) fn dev_type(_: &mut Draft, d: &Directive) -> Outcome {
    match text(d, 0)? {
        "tun" => Ok(Effect::Honoured),
        other => Err(bad(d, 0, format!("device type '{other}' is not supported")).hint("use 'dev-type tun'")),
    }
}

pub(crate) fn dev_node(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.device.node = draft.path(text(d, 0)?);
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig(draft: &mut Draft, d: &Directive) -> Outcome {
    let (local, prefix) = (ipv4(d, 0)?, netmask(d, 1));
    let prefix =
        prefix.map_err(|problem| problem.hint("'topology subnet' takes an address and a netmask"))?;
    draft.config.network.ifconfig = Some(Ifconfig4 { local, prefix });
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig_ipv6(draft: &mut Draft, d: &Directive) -> Outcome {
    let (local, prefix) = ipv6_prefix(d, 0)?;
    let remote = text(d, 1)?;
    let remote: Ipv6Addr =
        remote.parse().map_err(|_| bad(d, 1, format!("'{remote}' is not an IPv6 address")))?;
    draft.config.network.ifconfig6 = Some(Ifconfig6 { local, prefix, remote });
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig_pool(draft: &mut Draft, d: &Directive) -> Outcome {
    let (first, last) = (ipv4(d, 0)?, ipv4(d, 1)?);
    let mask = if d.args.len() == 3 { Some(mask4(netmask(d, 2)?)) } else { None };
    if first > last {
        return Err(bad(d, 1, format!("the pool ends ({last}) before it begins ({first})")));
    }
    if last.to_bits() - first.to_bits() >= Pool6::MAX_LEN {
        return Err(bad(d, 1, "the pool has more than 2^24 addresses"));
    }
    draft.pool = Some(Placed { value: (first, last, mask), place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig_ipv6_pool(draft: &mut Draft, d: &Directive) -> Outcome {
    let (first, prefix) = ipv6_prefix(d, 0)?;
    if !(64..=124).contains(&prefix) {
        return Err(bad(d, 0, "the prefix must be between /64 and /124"));
    }
    draft.config.network.pool6 = Some(Pool6 { first, prefix });
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig_pool_persist(draft: &mut Draft, d: &Directive) -> Outcome {
    let seconds = if d.args.len() == 2 { number(d, 1, 0..=MAX_SECONDS)? } else { PERSIST_INTERVAL };
    let interval = (seconds > 0).then_some(Duration::from_secs(seconds));
    draft.config.network.persist = Some(PoolPersist { file: draft.path(text(d, 0)?), interval });
    Ok(Effect::Honoured)
}

pub(crate) fn push(draft: &mut Draft, d: &Directive) -> Outcome {
    let option = text(d, 0)?.trim();
    if option.is_empty() {
        return Err(bad(d, 0, "nothing to push"));
    }
    if option.len() > MAX_PUSH_OPTION {
        return Err(bad(
            d,
            0,
            format!("the option has {} bytes, the limit is {MAX_PUSH_OPTION}", option.len()),
        ));
    }
    if option.contains(|c: char| c == ',' || c.is_control()) {
        return Err(bad(d, 0, "a pushed option may hold neither commas nor control characters"));
    }
    let name = option.split_whitespace().next().unwrap_or_default();
    if matches!(name, "auth-token" | "auth-token-user") {
        return Err(bad(d, 0, format!("{name} here would give every client the same token"))
            .hint("push it from client-connect, or from the client's own file in client-config-dir"));
    }
    if draft.config.push.len() >= MAX_PUSH {
        return Err(bad(d, 0, format!("more than {MAX_PUSH} options to push")));
    }
    draft.config.push.push(option.to_owned());
    Ok(Effect::Honoured)
}

pub(crate) fn route(draft: &mut Draft, d: &Directive) -> Outcome {
    room_for_route(draft, d)?;
    let network = ipv4(d, 0).map_err(|problem| problem.hint("names are not resolved: write the address"))?;
    let prefix = if d.arg(1).is_none_or(|mask| mask == "default") { 32 } else { netmask(d, 1)? };
    let gateway = match d.arg(2) {
        None | Some("default" | "vpn_gateway") => None,
        Some("net_gateway") => {
            return Err(bad(d, 2, "routes around the tunnel are not set by the gateway")
                .hint("set it with the host's own network configuration"));
        }
        Some(_) => Some(ipv4(d, 2)?),
    };
    let metric = metric(d)?;
    let first = Ipv4Addr::from_bits(network.to_bits() & mask4(prefix).to_bits());
    draft.config.network.routes.push(Route4 { network: first, prefix, gateway, metric });
    if first == network {
        Ok(Effect::Honoured)
    } else {
        Ok(Effect::Noted(format!("{network} has host bits: the route is {first}/{prefix}")))
    }
}

pub(crate) fn route_ipv6(draft: &mut Draft, d: &Directive) -> Outcome {
    room_for_route(draft, d)?;
    let (network, prefix) = ipv6_prefix(d, 0)?;
    let gateway = match d.arg(1) {
        None | Some("default" | "vpn_gateway") => None,
        Some(text) => Some(
            text.parse::<Ipv6Addr>().map_err(|_| bad(d, 1, format!("'{text}' is not an IPv6 address")))?,
        ),
    };
    let metric = if d.args.len() == 3 { Some(number(d, 2, 0..=u32::MAX)?) } else { None };
    let first = Ifconfig6 { local: network, prefix, remote: network }.network();
    draft.config.network.routes6.push(Route6 { network: first, prefix, gateway, metric });
    if first == network {
        Ok(Effect::Honoured)
    } else {
        Ok(Effect::Noted(format!("{network} has host bits: the route is {first}/{prefix}")))
    }
}

fn metric(d: &Directive) -> Result<Option<u32>, Diagnostic> {
    match d.arg(3) {
        None | Some("default") => Ok(None),
        Some(_) => number(d, 3, 0..=u32::MAX).map(Some),
    }
}

fn room_for_route(draft: &Draft, d: &Directive) -> Result<(), Diagnostic> {
    let network = &draft.config.network;
    if network.routes.len() + network.routes6.len() >= MAX_ROUTES {
        return Err(Diagnostic::error(&d.place, format!("more than {MAX_ROUTES} routes")));
    }
    Ok(())
}

pub(crate) fn route_gateway(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.arg(0) == Some("dhcp") {
        return Err(bad(d, 0, "a gateway by DHCP is for clients on ethernet").hint("write the address"));
    }
    draft.route_gateway = Some(ipv4(d, 0)?);
    Ok(Effect::Noted("pushed to clients as their route-gateway".to_owned()))
}

pub(crate) fn client_to_client(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.network.client_to_client = true;
    Ok(Effect::Honoured)
}

pub(crate) fn ifconfig_noexec(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.device.ifconfig_noexec = true;
    Ok(Effect::Honoured)
}

pub(crate) fn route_noexec(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.device.route_noexec = true;
    Ok(Effect::Honoured)
}
