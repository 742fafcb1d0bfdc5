//! The part of the hooks' environment that is the same for all clients.

use std::net::Ipv4Addr;

use crate::clock;
use crate::config::{Config, Protocol, mask4};
use crate::hooks::Env;

/// Link overhead that OpenVPN reports for AES-GCM over UDP.
const LINK_OVERHEAD: u32 = 49;

/// What every hook is told about the daemon.
pub(super) fn base(config: &Config, dev: Option<(&str, u32)>) -> Env {
    let mut env = Env::new();
    for variable in &config.hooks.setenv {
        env.set(&variable.name, variable.value.clone());
    }
    let process = &config.process;
    if let Some(file) = &process.config_file {
        env.set("config", file.display().to_string());
    }
    let mtu = u32::from(config.device.mtu);
    env.set("daemon", "0")
        .set("daemon_log_redirect", "0")
        .set("daemon_pid", std::process::id().to_string())
        .set("daemon_start_time", clock::unix_seconds().to_string())
        .set("verb", process.verb.to_string())
        .set("dev", dev.map_or("null", |(name, _)| name))
        .set("redirect_gateway", "0")
        .set("dev_type", "tun")
        .set("tun_mtu", mtu.to_string())
        .set("link_mtu", (mtu + LINK_OVERHEAD).to_string())
        .set("script_context", "init");
    if let Some((_, index)) = dev {
        env.set("dev_idx", index.to_string());
    }
    for (number, listener) in (1..).zip(&config.listeners) {
        if !listener.address.ip().is_unspecified() {
            env.set(&format!("local_{number}"), listener.address.ip().to_string());
        }
        env.set(&format!("local_port_{number}"), listener.address.port().to_string());
        // A server has no remote; OpenVPN names its own port there, and scripts may look for it.
        env.set(&format!("remote_port_{number}"), listener.address.port().to_string());
        let proto = match (listener.protocol, listener.address.is_ipv4()) {
            (Protocol::Udp, true) => "udp4",
            (Protocol::Udp, false) => "udp",
            (Protocol::Tcp, true) => "tcp4-server",
            (Protocol::Tcp, false) => "tcp-server",
        };
        env.set(&format!("proto_{number}"), proto);
    }
    let network = &config.network;
    if let Some(own) = network.ifconfig {
        env.set("ifconfig_local", own.local.to_string()).set("ifconfig_netmask", own.netmask().to_string());
    }
    if let Some(own) = network.ifconfig6 {
        env.set("ifconfig_ipv6_local", own.local.to_string())
            .set("ifconfig_ipv6_netbits", own.prefix.to_string())
            .set("ifconfig_ipv6_remote", own.remote.to_string());
    }
    // As OpenVPN has it with `topology subnet`: the first address that a client may get.
    let gateway = network.ifconfig.map(|own| Ipv4Addr::from_bits(own.network().to_bits().saturating_add(2)));
    if let Some(gateway) = gateway {
        env.set("route_vpn_gateway", gateway.to_string());
    }
    for (number, route) in (1..).zip(&network.routes) {
        env.set(&format!("route_network_{number}"), route.network.to_string());
        env.set(&format!("route_netmask_{number}"), mask4(route.prefix).to_string());
        if let Some(gateway) = route.gateway.or(gateway) {
            env.set(&format!("route_gateway_{number}"), gateway.to_string());
        }
        if let Some(metric) = route.metric {
            env.set(&format!("route_metric_{number}"), metric.to_string());
        }
    }
    for (number, route) in (1..).zip(&network.routes6) {
        env.set(&format!("route_ipv6_network_{number}"), format!("{}/{}", route.network, route.prefix));
        if let Some(gateway) = route.gateway.or(network.ifconfig6.map(|own| own.remote)) {
            env.set(&format!("route_ipv6_gateway_{number}"), gateway.to_string());
        }
    }
    env
}
