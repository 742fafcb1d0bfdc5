//! Addresses and routes of the TUN device, by rtnetlink.
//!
//! What is made here hangs off the device, so it is gone with it at the latest; a stop takes it away in order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

/// A route into the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Network.
    pub network: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Next hop; `None`: the device itself.
    pub gateway: Option<IpAddr>,
    /// Metric; `None`: the kernel's.
    pub metric: Option<u32>,
}

/// What a device is to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkPlan {
    /// Index of the device.
    pub ifindex: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue in packets; `None`: the kernel's.
    pub txqueuelen: Option<u32>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes.
    pub routes: Vec<Route>,
}

/// What was made, to be taken away again.
#[derive(Debug, Default)]
pub struct Applied {
    routes: Vec<Route>,
    ifindex: u32,
}

/// Brings the device up and gives it addresses and routes. What is there already, the same, is fine.
///
/// # Errors
/// Names what could not be set.
pub async fn apply(plan: &LinkPlan) -> io::Result<Applied> {
    let handle = connect()?;
    let mut link = LinkUnspec::new_with_index(plan.ifindex).up().mtu(plan.mtu);
    if let Some(len) = plan.txqueuelen {
        link = link.txqueuelen(len);
    }
    let done = handle.link().set(link.build()).execute().await;
    done.map_err(|error| named("device settings (up, tun-mtu, txqueuelen)", &error))?;
    for (address, prefix) in &plan.addresses {
        let done = handle
            .address()
            .add(plan.ifindex, *address, *prefix)
            .execute()
            .await;
        allow_existing(done).map_err(|error| named(&format!("address {address}/{prefix}"), &error))?;
    }
    let mut applied = Applied {
        routes: Vec::new(),
        ifindex: plan.ifindex,
    };
    for route in &plan.routes {
        let done = handle.route().add(message(route, plan.ifindex)).execute().await;
        let name = format!("route {}/{}", route.network, route.prefix);
        allow_existing(done).map_err(|error| named(&name, &error))?;
        applied.routes.push(*route);
    }
    Ok(applied)
}

/// Takes the routes away. A device that is gone has taken them along; that is no fault.
pub async fn remove(applied: Applied) {
    let Ok(handle) = connect() else { return };
    for route in applied.routes {
        let _ = handle
            .route()
            .del(message(&route, applied.ifindex))
            .execute()
            .await;
    }
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

fn message(route: &Route, ifindex: u32) -> RouteMessage {
    let metric = |mut message: RouteMessage| {
        if let Some(metric) = route.metric {
            use rtnetlink::packet_route::route::RouteAttribute;
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        message
    };
    match route.network {
        IpAddr::V4(network) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network, route.prefix)
                .output_interface(ifindex);
            if let Some(IpAddr::V4(gateway)) = route.gateway {
                builder = builder.gateway(gateway);
            }
            metric(builder.build())
        }
        IpAddr::V6(network) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, route.prefix)
                .output_interface(ifindex);
            if let Some(IpAddr::V6(gateway)) = route.gateway {
                builder = builder.gateway(gateway);
            }
            metric(builder.build())
        }
    }
}

fn allow_existing(done: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match done {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}

fn named(what: &str, error: &rtnetlink::Error) -> io::Error {
    let kind = match error {
        rtnetlink::Error::NetlinkError(message) if message.raw_code() == -libc::EPERM => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{what}: {error}"))
}
