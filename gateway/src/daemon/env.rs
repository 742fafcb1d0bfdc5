//! The part of the hooks' environment that is the same for all clients.

use crate::clock;
use crate::config::Config;
use crate::hooks::Env;

/// Link overhead that OpenVPN reports for AES-GCM over UDP.
const LINK_OVERHEAD: u32 = 49;

/// What every hook is told about the daemon.
pub(super) fn base(config: &Config, dev: Option<&str>) -> Env {
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
        .set("dev", dev.unwrap_or("null"))
        .set("dev_type", "tun")
        .set("tun_mtu", mtu.to_string())
        .set("link_mtu", (mtu + LINK_OVERHEAD).to_string())
        .set("script_context", "init");
    for (number, listener) in (1..).zip(&config.listeners) {
        if !listener.address.ip().is_unspecified() {
            env.set(&format!("local_{number}"), listener.address.ip().to_string());
        }
        env.set(&format!("local_port_{number}"), listener.address.port().to_string());
        env.set(&format!("proto_{number}"), if listener.address.is_ipv4() { "udp4" } else { "udp" });
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
    for (number, route) in (1..).zip(&network.routes) {
        let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix)).unwrap_or(0);
        env.set(&format!("route_network_{number}"), route.network.to_string());
        env.set(&format!("route_netmask_{number}"), std::net::Ipv4Addr::from_bits(mask).to_string());
        if let Some(gateway) = route.gateway {
            env.set(&format!("route_gateway_{number}"), gateway.to_string());
        }
    }
    env
}
