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
            // What makes the tunnel work at all stays.
            PushEdit::Reset => options.retain(|option| is_structural(option)),
            PushEdit::Remove(prefix) => options.retain(|option| !starts_with_words(option, prefix)),
        }
    }
    options.retain(|option| !iroutes.iter().any(|own| is_route_to(option, *own)));
    options
}

/// Survives `push-reset`, as with OpenVPN.
fn is_structural(option: &str) -> bool {
    let word = option.split(' ').next().unwrap_or_default();
    matches!(
        word,
        "topology" | "route-gateway" | "ping" | "ping-restart" | "tun-ipv6"
    )
}

fn starts_with_words(option: &str, prefix: &str) -> bool {
    option
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
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
        let common = strings(&[
            "topology subnet",
            "route 10.0.0.0 255.0.0.0",
            "dhcp-option DNS 1.1.1.1",
            "ping 10",
        ]);
        let edits = [
            PushEdit::Remove("dhcp-option".into()),
            PushEdit::Add("route 192.168.7.0 255.255.255.0".into()),
        ];
        let own = [Prefix::new([10, 0, 0, 0].into(), 8).unwrap()];
        assert_eq!(
            apply(&common, &edits, &own),
            ["topology subnet", "ping 10", "route 192.168.7.0 255.255.255.0"]
        );
        let edits = [PushEdit::Reset, PushEdit::Add("x".into())];
        assert_eq!(apply(&common, &edits, &[]), ["topology subnet", "ping 10", "x"]);
        assert_eq!(apply(&common, &[PushEdit::Remove("dhcp".into())], &[]), common);
    }
}
