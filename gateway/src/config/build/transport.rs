//! Handlers of sockets, sizes, timers and bounds.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    Draft, Effect, Local, MAX_SECONDS, Outcome, Placed, Proto, ProtoFamily, bad, number, seconds,
    seconds_or_never, text, word,
};
use crate::config::diagnostic::Diagnostic;
use crate::config::lex::Directive;
use crate::config::model::{MssFix, PortShare, Protocol, Rate, ReplayWindow};

/// Most addresses to listen on.
const MAX_LISTENERS: usize = 64;
/// Longest time for pings: OpenVPN's own limit, a day.
const MAX_PING: u64 = 86_400;
/// Most clients: the peer-id has 24 bits and its last value means "none".
const MAX_CLIENTS: u32 = (1 << 24) - 1;
/// Largest socket buffer in bytes: beyond it is a slip of the finger.
const MAX_SOCKET_BUFFER: u32 = 1 << 30;
/// Most packets that may wait for a TCP client: beyond it they would be minutes old when they arrive.
const MAX_TCP_QUEUE: u16 = 4096;
/// Smallest tunnel MTU that OpenVPN takes.
const MIN_TUN_MTU: u16 = 100;
/// Smallest control datagram: below it a TLS record does not fit behind the wrapping.
const MIN_PACKET_SIZE: u16 = 154;
/// Largest replay window in packets, OpenVPN's own limit.
const MAX_REPLAY_WINDOW: u32 = 65_536;
/// Largest replay time in seconds, OpenVPN's own limit.
const MAX_REPLAY_TIME: u64 = 600;

pub(crate) fn proto(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.proto = Some(proto_at(d, 0)?);
    Ok(Effect::Honoured)
}

fn proto_at(d: &Directive, index: usize) -> Result<Proto, Diagnostic> {
    let (protocol, family) = match text(d, index)? {
        "udp" => (Protocol::Udp, ProtoFamily::Any),
        "udp4" => (Protocol::Udp, ProtoFamily::V4),
        "udp6" => (Protocol::Udp, ProtoFamily::V6),
        // A server of OpenVPN takes the short forms for these.
        "tcp" | "tcp-server" => (Protocol::Tcp, ProtoFamily::Any),
        "tcp4" | "tcp4-server" => (Protocol::Tcp, ProtoFamily::V4),
        "tcp6" | "tcp6-server" => (Protocol::Tcp, ProtoFamily::V6),
        client @ ("tcp-client" | "tcp4-client" | "tcp6-client") => {
            return Err(bad(d, index, format!("'{client}' is for clients")).hint("use 'tcp-server'"));
        }
        other => {
            let known = "udp, udp4, udp6, tcp-server, tcp4-server, tcp6-server";
            return Err(bad(d, index, format!("'{other}' is not one of: {known}")));
        }
    };
    Ok(Proto { protocol, family })
}

pub(crate) fn port(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.port = Some(port_at(d, 0)?);
    Ok(Effect::Honoured)
}

fn port_at(d: &Directive, index: usize) -> Result<u16, Diagnostic> {
    number(d, index, 1..=u16::MAX)
}

pub(crate) fn local(draft: &mut Draft, d: &Directive) -> Outcome {
    let host = text(d, 0)?;
    let address: Option<IpAddr> = match host {
        "*" => None,
        _ => Some(host.parse().map_err(|_| {
            bad(d, 0, format!("'{host}' is not an address")).hint("names are not resolved: write the address")
        })?),
    };
    let port = if d.args.len() > 1 { Some(port_at(d, 1)?) } else { None };
    let proto = if d.args.len() > 2 { Some(proto_at(d, 2)?) } else { None };
    if let (Some(proto), Some(address)) = (proto, address)
        && !proto.fits(address)
    {
        return Err(bad(d, 2, "the address is of the other family"));
    }
    if draft.locals.len() >= MAX_LISTENERS {
        return Err(Diagnostic::error(&d.place, format!("more than {MAX_LISTENERS} addresses to listen on")));
    }
    draft.locals.push(Placed { value: Local { address, port, proto }, place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn bind(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.ipv6_only = d.args.len() == 1 && word(d, 0, &[("ipv6only", true)])?;
    Ok(Effect::Honoured)
}

pub(crate) fn bind_dev(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.bind_device = Some(text(d, 0)?.to_owned());
    Ok(Effect::Honoured)
}

pub(crate) fn keepalive(draft: &mut Draft, d: &Directive) -> Outcome {
    let (ping, restart) = (number(d, 0, 1..=MAX_PING)?, number(d, 1, 1..=MAX_PING)?);
    if restart < ping.saturating_mul(2) {
        return Err(bad(d, 1, "the timeout must be at least twice the ping interval")
            .hint(format!("for example 'keepalive {ping} {}'", ping.saturating_mul(6).min(MAX_PING))));
    }
    draft.keepalive = Some(Placed { value: (ping, restart), place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn ping(draft: &mut Draft, d: &Directive) -> Outcome {
    let value = number(d, 0, 0..=MAX_PING)?;
    draft.config.timers.ping = (value > 0).then_some(Duration::from_secs(value));
    Ok(Effect::Honoured)
}

pub(crate) fn ping_restart(draft: &mut Draft, d: &Directive) -> Outcome {
    let value = number(d, 0, 0..=MAX_PING)?;
    draft.config.timers.ping_restart = (value > 0).then_some(Duration::from_secs(value));
    Ok(Effect::Honoured)
}

pub(crate) fn inactive(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.timers.inactive = seconds_or_never(d, 0)?;
    draft.config.timers.inactive_bytes = if d.args.len() > 1 { number(d, 1, 0..=u64::MAX)? } else { 0 };
    Ok(Effect::Honoured)
}

pub(crate) fn session_timeout(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.timers.session_timeout = seconds_or_never(d, 0)?;
    Ok(Effect::Honoured)
}

pub(crate) fn explicit_exit_notify(draft: &mut Draft, d: &Directive) -> Outcome {
    let mode = if d.args.is_empty() { 1 } else { number(d, 0, 0..=2)? };
    draft.config.timers.explicit_exit_notify = mode > 0;
    Ok(match mode {
        2 => Effect::Noted("clients are told to come back to this server, as with 1".to_owned()),
        _ => Effect::Honoured,
    })
}

pub(crate) fn passtos(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.transport.passtos = true;
    Ok(Effect::Honoured)
}

pub(crate) fn tun_mtu(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.device.mtu = number(d, 0, MIN_TUN_MTU..=u16::MAX)?;
    if d.args.len() > 1 {
        return Ok(Effect::Noted(
            "the second argument concerns only what clients push, and is left out".to_owned(),
        ));
    }
    Ok(Effect::Honoured)
}

pub(crate) fn mssfix(draft: &mut Draft, d: &Directive) -> Outcome {
    if d.args.is_empty() {
        draft.mssfix = None;
        return Ok(Effect::Honoured);
    }
    let bytes = number(d, 0, 0..=u16::MAX)?;
    let mode = if d.args.len() > 1 {
        word(d, 1, &[("mtu", MssFix::Mtu as fn(u16) -> MssFix), ("fixed", MssFix::Fixed)])?
    } else {
        MssFix::Payload
    };
    draft.mssfix = Some(if bytes == 0 { MssFix::Off } else { mode(bytes) });
    Ok(Effect::Honoured)
}

pub(crate) fn max_packet_size(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.transport.max_packet_size = number(d, 0, MIN_PACKET_SIZE..=u16::MAX)?;
    Ok(Effect::Honoured)
}

pub(crate) fn replay_window(draft: &mut Draft, d: &Directive) -> Outcome {
    let packets = number(d, 0, 0..=MAX_REPLAY_WINDOW)?;
    if packets == 0 {
        return Err(bad(d, 0, "a window of 0 drops every packet that is late by one")
            .hint("leave the directive out for the default of 64"));
    }
    let mut window = ReplayWindow { packets, ..ReplayWindow::default() };
    if d.args.len() > 1 {
        window.time = seconds(d, 1, 0..=MAX_REPLAY_TIME)?;
    }
    draft.config.transport.replay_window = window;
    Ok(Effect::Honoured)
}

pub(crate) fn sndbuf(draft: &mut Draft, d: &Directive) -> Outcome {
    let bytes = number(d, 0, 0..=MAX_SOCKET_BUFFER)?;
    draft.config.transport.sndbuf = (bytes > 0).then_some(bytes);
    Ok(Effect::Honoured)
}

pub(crate) fn rcvbuf(draft: &mut Draft, d: &Directive) -> Outcome {
    let bytes = number(d, 0, 0..=MAX_SOCKET_BUFFER)?;
    draft.config.transport.rcvbuf = (bytes > 0).then_some(bytes);
    Ok(Effect::Honoured)
}

pub(crate) fn tcp_nodelay(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.push_nodelay = true;
    Ok(Effect::Honoured)
}

/// The gateway itself never waits to gather small packets; what is left of the directive is that its words are checked.
pub(crate) fn socket_flags(_: &mut Draft, d: &Directive) -> Outcome {
    for index in 0..d.args.len() {
        word(d, index, &[("TCP_NODELAY", ())])?;
    }
    Ok(Effect::Honoured)
}

pub(crate) fn tcp_queue_limit(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.transport.tcp_queue_limit = number(d, 0, 1..=MAX_TCP_QUEUE)?;
    Ok(Effect::Honoured)
}

pub(crate) fn port_share(draft: &mut Draft, d: &Directive) -> Outcome {
    let host = text(d, 0)?;
    if host.is_empty() {
        return Err(bad(d, 0, "the host is empty"));
    }
    let directory = if d.args.len() > 2 { Some(draft.path(text(d, 2)?)) } else { None };
    draft.config.transport.port_share =
        Some(PortShare { host: host.to_owned(), port: port_at(d, 1)?, directory });
    Ok(Effect::Honoured)
}

pub(crate) fn mark(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.transport.mark = Some(number(d, 0, 0..=u32::MAX)?);
    Ok(Effect::Honoured)
}

pub(crate) fn txqueuelen(draft: &mut Draft, d: &Directive) -> Outcome {
    let packets = number(d, 0, 0..=1_000_000)?;
    draft.config.device.txqueuelen = (packets > 0).then_some(packets);
    Ok(Effect::Honoured)
}

pub(crate) fn max_clients(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.limits.max_clients = number(d, 0, 1..=MAX_CLIENTS)?;
    Ok(Effect::Honoured)
}

pub(crate) fn max_routes_per_client(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.limits.max_routes_per_client = number(d, 0, 1..=1 << 20)?;
    Ok(Effect::Honoured)
}

pub(crate) fn duplicate_cn(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.limits.duplicate_cn = true;
    Ok(Effect::Honoured)
}

fn rate(d: &Directive) -> Result<Rate, Diagnostic> {
    Ok(Rate { count: number(d, 0, 1..=u32::MAX)?, per: seconds(d, 1, 1..=MAX_SECONDS)? })
}

pub(crate) fn connect_freq(_: &mut Draft, d: &Directive) -> Outcome {
    rate(d)?;
    Ok(Effect::Ignored(
        "not applied: new clients are bounded by connect-freq-initial, cookies and max-half-open".to_owned(),
    ))
}

pub(crate) fn connect_freq_initial(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.limits.connect_freq_initial = rate(d)?;
    Ok(Effect::Honoured)
}

pub(crate) fn reneg_sec(draft: &mut Draft, d: &Directive) -> Outcome {
    let max = number(d, 0, 0..=MAX_SECONDS)?;
    // A tenth of jitter unless told, as OpenVPN servers do.
    let min = if d.args.len() > 1 { number(d, 1, 0..=MAX_SECONDS)? } else { max - max / 10 };
    if min > max {
        return Err(bad(d, 1, format!("the minimum ({min}) is over the maximum ({max})")));
    }
    let timers = &mut draft.config.timers;
    timers.reneg_max = (max > 0).then_some(Duration::from_secs(max));
    timers.reneg_min = (max > 0).then_some(Duration::from_secs(min));
    if max == 0 {
        return Ok(Effect::Noted("keys are renewed only at the cipher's own limits".to_owned()));
    }
    Ok(Effect::Honoured)
}

pub(crate) fn reneg_bytes(draft: &mut Draft, d: &Directive) -> Outcome {
    let bytes = number(d, 0, 0..=u64::MAX)?;
    draft.config.timers.reneg_bytes = (bytes > 0).then_some(bytes);
    Ok(Effect::Honoured)
}

pub(crate) fn reneg_pkts(draft: &mut Draft, d: &Directive) -> Outcome {
    let packets = number(d, 0, 0..=u64::MAX)?;
    draft.config.timers.reneg_packets = (packets > 0).then_some(packets);
    Ok(Effect::Honoured)
}

pub(crate) fn hand_window(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.timers.hand_window = seconds(d, 0, 1..=3600)?;
    Ok(Effect::Honoured)
}

pub(crate) fn tran_window(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.timers.tran_window = seconds(d, 0, 1..=MAX_SECONDS)?;
    Ok(Effect::Honoured)
}

pub(crate) fn tls_timeout(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.timers.tls_timeout = seconds(d, 0, 1..=60)?;
    Ok(Effect::Honoured)
}
