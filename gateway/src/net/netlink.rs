//! Addresses and routes of the TUN device, by rtnetlink.
//!
//! Only what was really added is remembered and taken away again: an address or route that was there before stays.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use tracing::warn;

/// The kernel's metric of IPv6 routes that name none (IP6_RT_PRIO_USER).
const DEFAULT_METRIC_V6: u32 = 1024;

/// A route into the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Network.
    pub network: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Next hop; `None`: the device itself. An IPv4 next hop may lie behind another device: the kernel finds out which.
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
    ifindex: u32,
    addresses: Vec<(IpAddr, u8)>,
    routes: Vec<Route>,
}

/// Brings the device up and gives it addresses and routes. What is there already, the same, is fine and will not be removed.
///
/// # Errors
/// Names what could not be set, and takes back what was: a missing right, an address with another prefix length, a route to
/// the same network that leads elsewhere.
pub async fn apply(plan: &LinkPlan) -> io::Result<Applied> {
    let handle = connect()?;
    let mut applied = Applied { ifindex: plan.ifindex, ..Applied::default() };
    match apply_all(&handle, plan, &mut applied).await {
        Ok(()) => Ok(applied),
        Err(error) => {
            remove_all(&handle, applied).await;
            Err(error)
        }
    }
}

/// Takes routes and addresses away, last first. A device that is gone has taken its own along; that is no fault. What cannot be
/// removed is logged.
pub async fn remove(applied: Applied) {
    if applied.routes.is_empty() && applied.addresses.is_empty() {
        return;
    }
    match connect() {
        Ok(handle) => remove_all(&handle, applied).await,
        Err(error) => warn!("routes and addresses are not removed: {error}"),
    }
}

async fn apply_all(handle: &Handle, plan: &LinkPlan, applied: &mut Applied) -> io::Result<()> {
    let mut link = LinkUnspec::new_with_index(plan.ifindex).up().mtu(plan.mtu);
    if let Some(len) = plan.txqueuelen {
        link = link.txqueuelen(len);
    }
    let done = handle.link().set(link.build()).execute().await;
    done.map_err(|error| named("device settings (up, tun-mtu, txqueuelen)", &error))?;
    for (address, prefix) in &plan.addresses {
        let name = format!("address {address}/{prefix}");
        let done = handle.address().add(plan.ifindex, *address, *prefix).execute().await;
        if added(done).map_err(|error| named(&name, &error))? {
            applied.addresses.push((*address, *prefix));
        } else if let Some(other) = prefix_of(handle, plan.ifindex, *address).await?
            && other != *prefix
        {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{name}: the device has this address already, with prefix length {other}"),
            ));
        }
    }
    for route in &plan.routes {
        let name = format!("route {}/{}", route.network, route.prefix);
        let done = handle.route().add(message(route, plan.ifindex)).execute().await;
        if added(done).map_err(|error| named(&name, &error))? {
            applied.routes.push(*route);
        } else if !leads_there(handle, route, plan.ifindex).await? {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{name}: the routing table already leads this network elsewhere"),
            ));
        }
    }
    Ok(())
}

async fn remove_all(handle: &Handle, applied: Applied) {
    for route in applied.routes.iter().rev() {
        let done = handle.route().del(message(route, applied.ifindex)).execute().await;
        if let Err(error) = gone(done) {
            warn!("route {}/{} is not removed: {error}", route.network, route.prefix);
        }
    }
    for (address, prefix) in applied.addresses.iter().rev() {
        let done = handle.address().del(address_message(applied.ifindex, *address, *prefix)).execute().await;
        if let Err(error) = gone(done) {
            warn!("address {address}/{prefix} is not removed: {error}");
        }
    }
}

/// The prefix length an address has on a device; `None` if it is not there.
async fn prefix_of(handle: &Handle, ifindex: u32, address: IpAddr) -> io::Result<Option<u8>> {
    let mut all = handle.address().get().set_link_index_filter(ifindex).execute();
    while let Some(found) = all.try_next().await.map_err(|error| named("list of addresses", &error))? {
        // IPv4 carries its own address as IFA_LOCAL (IFA_ADDRESS is the peer's on point-to-point links), IPv6 as IFA_ADDRESS.
        let ours = found.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Local(ip) => *ip == address,
            AddressAttribute::Address(ip) => address.is_ipv6() && *ip == address,
            _ => false,
        });
        if ours {
            return Ok(Some(found.header.prefix_len));
        }
    }
    Ok(None)
}

/// Whether the route that stands in the way leads to the device (or to the same gateway).
async fn leads_there(handle: &Handle, route: &Route, ifindex: u32) -> io::Result<bool> {
    let (network, query, default_metric) = match route.network {
        IpAddr::V4(ip) => (RouteAddress::Inet(ip), RouteMessageBuilder::<Ipv4Addr>::new().build(), 0),
        IpAddr::V6(ip) => {
            (RouteAddress::Inet6(ip), RouteMessageBuilder::<Ipv6Addr>::new().build(), DEFAULT_METRIC_V6)
        }
    };
    let metric = route.metric.unwrap_or(default_metric);
    let family = if route.network.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut all = handle.route().get(query.clone()).execute();
    let mut found = false;
    while let Some(other) = all.try_next().await.map_err(|error| named("list of routes", &error))? {
        if other.header.address_family != family
            || other.header.destination_prefix_length != route.prefix
            || other.header.table != query.header.table
        {
            continue;
        }
        let (mut to, mut other_metric, mut there) = (None, 0, false);
        for attribute in &other.attributes {
            match attribute {
                RouteAttribute::Destination(address) => to = Some(address.clone()),
                RouteAttribute::Priority(value) => other_metric = *value,
                RouteAttribute::Oif(index) => there |= *index == ifindex,
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => {
                    there |= route.gateway == Some((*ip).into());
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => {
                    there |= route.gateway == Some((*ip).into());
                }
                _ => {}
            }
        }
        // A default route has no destination attribute.
        let same = to.map_or(route.prefix == 0, |to| to == network);
        found |= same && other_metric == metric && there;
    }
    Ok(found)
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

fn address_message(ifindex: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    match address {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).address(ip, prefix).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(ifindex).address(ip, prefix).build(),
    }
}

fn message(route: &Route, ifindex: u32) -> RouteMessage {
    let mut message = match route.network {
        IpAddr::V4(network) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, route.prefix);
            match route.gateway {
                // The device is left to the kernel: the gateway may be a router of another network.
                Some(IpAddr::V4(gateway)) => builder.gateway(gateway),
                _ => builder.output_interface(ifindex).scope(RouteScope::Link),
            }
            .build()
        }
        IpAddr::V6(network) => {
            // A link-local gateway has no meaning without its device.
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, route.prefix)
                .output_interface(ifindex);
            match route.gateway {
                Some(IpAddr::V6(gateway)) => builder.gateway(gateway),
                _ => builder,
            }
            .build()
        }
    };
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}

/// Whether it was added (`true`) or something of the kind was there (`false`).
fn added(done: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    match done {
        Ok(()) => Ok(true),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => Ok(false),
        Err(error) => Err(error),
    }
}

/// Passes over the errors that say it is gone already.
fn gone(done: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match done {
        Err(rtnetlink::Error::NetlinkError(message))
            if [-libc::ESRCH, -libc::ENODEV, -libc::EADDRNOTAVAIL, -libc::ENOENT]
                .contains(&message.raw_code()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn named(what: &str, error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            let error = io::Error::from_raw_os_error(-message.raw_code());
            io::Error::new(error.kind(), format!("{what}: {error}"))
        }
        _ => io::Error::other(format!("{what}: {error}")),
    }
}
