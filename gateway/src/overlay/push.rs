//! The push list: common options, edited for one client.

use std::net::Ipv4Addr;

use crate::routes::Prefix;

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEdit {
    /// One more option.
    Add(String),
    /// Forget everything so far.
    Reset,
    /// Forget options that start with this.
    Remove(String),
}

/// The options that a client is pushed, in order. Routes to the client's own networks are left out: they would lead its
/// traffic in a circle.
#[must_use]
pub fn apply(common: &[String], edits: &[PushEdit], iroutes: &[Prefix]) -> Vec<String> {
    let mut options = common.to_vec();
    for edit in edits {
        match edit {
            PushEdit::Add(option) => options.push(option.clone()),
            // Everything, as OpenVPN 2.6 was seen to do: whoever resets pushes `topology` and the rest again.
            PushEdit::Reset => options.clear(),
            // Any beginning, not only whole words: `route` takes `route-gateway` along, as with OpenVPN.
            PushEdit::Remove(prefix) => options.retain(|option| !option.starts_with(prefix.as_str())),
        }
    }
    options.retain(|option| !iroutes.iter().any(|own| is_route_to(option, *own)));
    options
}

fn is_route_to(option: &str, own: Prefix) -> bool {
    let mut words = option.split_ascii_whitespace();
    let route = match (words.next(), words.next()) {
        (Some("route"), Some(network)) => {
            let mask = words.next().unwrap_or("255.255.255.255").parse::<Ipv4Addr>();
            let (Ok(network), Ok(mask)) = (network.parse::<Ipv4Addr>(), mask) else {
                return false;
            };
            Prefix::new(network.into(), mask.to_bits().count_ones() as u8)
        }
        (Some("route-ipv6"), Some(network)) => {
            let Some((network, bits)) = network.split_once('/') else {
                return false;
            };
            let (Ok(network), Ok(bits)) = (network.parse(), bits.parse()) else {
                return false;
            };
            Prefix::new(std::net::IpAddr::V6(network), bits)
        }
        _ => return false,
    };
    route.is_ok_and(|route| route == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn edits_in_order() {
        let common =
            strings(&["topology subnet", "route 10.0.0.0 255.0.0.0", "dhcp-option DNS 1.1.1.1", "ping 10"]);
        let edits =
            [PushEdit::Remove("dhcp-option".into()), PushEdit::Add("route 192.168.7.0 255.255.255.0".into())];
        let own = [Prefix::new([10, 0, 0, 0].into(), 8).unwrap()];
        assert_eq!(
            apply(&common, &edits, &own),
            ["topology subnet", "ping 10", "route 192.168.7.0 255.255.255.0"]
        );
        let edits = [PushEdit::Reset, PushEdit::Add("x".into())];
        assert_eq!(apply(&common, &edits, &[]), ["x"]);
    }

    #[test]
    fn removal_is_by_beginning_as_stock_openvpn_does() {
        let common = strings(&[
            "route 10.99.0.0 255.255.0.0",
            "route-ipv6 2001:db8::/32",
            "dhcp-option DNS 1.1.1.1",
            "dhcp-option WINS 1.1.1.2",
            "xroute 1",
            "route-gateway 10.8.0.1",
        ]);
        let without = |prefix: &str| apply(&common, &[PushEdit::Remove(prefix.into())], &[]);
        assert_eq!(without("route"), ["dhcp-option DNS 1.1.1.1", "dhcp-option WINS 1.1.1.2", "xroute 1"]);
        assert_eq!(without("dhcp-option DNS 1.1").len(), 5);
    }
}
