//! Reads per-client directives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use tessera_proto::{Cipher, Secret};

use super::{Overlay, PushEdit};
use crate::config::{Diagnostic, Directive, lex};
use crate::routes::Prefix;

/// Most directives of one client.
const MAX_DIRECTIVES: usize = 1000;
/// Longest token that clients keep.
const MAX_TOKEN: usize = 127;

/// Reads a ccd file or what `client-connect` wrote. The second value is what was left out, and why.
#[must_use]
pub fn parse(source: &str, text: &[u8]) -> (Overlay, Vec<String>) {
    let mut overlay = Overlay::default();
    let directives = match lex(source, text) {
        Ok(directives) => directives,
        Err(problems) => return (overlay, problems.iter().map(Diagnostic::to_string).collect()),
    };
    let mut left_out = Vec::new();
    if directives.len() > MAX_DIRECTIVES {
        left_out.push(format!(
            "{source}: only the first {MAX_DIRECTIVES} directives are used"
        ));
    }
    for directive in directives.iter().take(MAX_DIRECTIVES) {
        if let Err(why) = overlay.take(directive) {
            left_out.push(format!("{}: {}: {why}", directive.place, directive.name));
        }
    }
    (overlay, left_out)
}

type Taken = Result<(), &'static str>;

impl Overlay {
    fn take(&mut self, directive: &Directive) -> Taken {
        let arg = |index: usize| directive.arg(index);
        let first = || arg(0).ok_or("an argument is missing");
        match directive.name.as_str() {
            "push" => self.take_push(first()?)?,
            "push-reset" => self.push.push(PushEdit::Reset),
            "push-remove" => self.push.push(PushEdit::Remove(first()?.to_owned())),
            "iroute" => {
                let network: Ipv4Addr = value(first()?)?;
                let mask = arg(1).map_or(Ok(Ipv4Addr::BROADCAST), value)?;
                let bits = prefix_len(mask).ok_or("the netmask has holes")?;
                self.iroutes
                    .push(Prefix::new(IpAddr::V4(network), bits).map_err(|_| "not a network address")?);
            }
            "iroute-ipv6" => {
                let (network, bits) = v6_prefix(first()?)?;
                self.iroutes
                    .push(Prefix::new(IpAddr::V6(network), bits).map_err(|_| "not a network address")?);
            }
            "ifconfig-push" => {
                let mask = arg(1).ok_or("the netmask is missing")?;
                self.ifconfig = Some((value(first()?)?, value(mask)?));
            }
            "ifconfig-ipv6-push" => {
                let (address, bits) = v6_prefix(first()?)?;
                self.ifconfig_ipv6 = Some((address, bits, arg(1).map(value).transpose()?));
            }
            "disable" => self.disable = true,
            "data-ciphers" | "ncp-ciphers" => {
                let known: Vec<Cipher> = first()?
                    .split(':')
                    .filter_map(|name| Cipher::from_name(name.trim_start_matches('?')))
                    .collect();
                if known.is_empty() {
                    return Err("none of these ciphers is spoken");
                }
                self.ciphers = Some(known);
            }
            "inactive" => {
                self.inactive = Some((seconds(first()?)?, arg(1).map_or(Ok(0), value)?));
            }
            "session-timeout" => self.session_timeout = Some(seconds(first()?)?),
            "ping" => self.ping = Some(seconds(first()?)?),
            "ping-restart" | "ping-exit" => self.ping_restart = Some(seconds(first()?)?),
            "max-routes-per-client" => self.max_routes = Some(value(first()?)?),
            "echo" | "parameter" | "ping-timer-rem" | "socket-flags" => {}
            "auth-token" | "auth-token-user" => {
                return Err("has an effect only inside push \"…\"");
            }
            "cipher"
            | "data-ciphers-fallback"
            | "compress"
            | "comp-lzo"
            | "override-username"
            | "vlan-pvid"
            | "config"
            | "bind-dev" => return Err("is not supported for single clients"),
            _ => return Err("is not allowed here"),
        }
        Ok(())
    }

    /// Tokens are lifted out of the push list: they are secrets, and must be usable.
    fn take_push(&mut self, option: &str) -> Taken {
        if let Some(token) = option.strip_prefix("auth-token ") {
            let token = Secret::new(token.trim().to_owned());
            match token_fault(token.expose()) {
                None => self.token = Some(token),
                Some(fault) => self.fault = Some(format!("the auth-token that was pushed {fault}")),
            }
            return Ok(());
        }
        if let Some(user) = option.strip_prefix("auth-token-user ") {
            let decoded = base64::engine::general_purpose::STANDARD.decode(user.trim()).ok();
            let name = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            self.token_user = Some(name.ok_or("the user name is not base64 of UTF-8")?);
            return Ok(());
        }
        if option.contains(',') || option.chars().any(char::is_control) {
            return Err("an option with a comma or a control character cannot be pushed");
        }
        self.push.push(PushEdit::Add(option.to_owned()));
        Ok(())
    }
}

/// Why clients could not use a token.
fn token_fault(token: &str) -> Option<&'static str> {
    if token.is_empty() {
        return Some("is empty");
    }
    if token.len() > MAX_TOKEN {
        return Some("is longer than 127 bytes");
    }
    let bad = |c: char| !c.is_ascii_graphic() || matches!(c, ',' | '"' | '\'' | '\\');
    token
        .chars()
        .any(bad)
        .then_some("has a character that clients cannot take (space, comma, quote, not printable)")
}

fn value<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "the value is not well formed")
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    value(text).map(Duration::from_secs)
}

fn v6_prefix(text: &str) -> Result<(Ipv6Addr, u8), &'static str> {
    let (address, bits) = text.split_once('/').ok_or("ADDRESS/BITS is wanted")?;
    let bits = value(bits)?;
    if bits > 128 {
        Err("more than 128 bits")
    } else {
        Ok((value(address)?, bits))
    }
}

fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() == bits.count_ones()).then_some(bits.leading_ones() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_legal() {
        let text = b"push \"route 10.1.0.0 255.255.0.0\"\npush-remove dhcp-option\niroute 192.168.5.0 255.255.255.0\n\
            iroute-ipv6 2001:db8:5::/48\nifconfig-push 10.8.0.9 255.255.255.0\nifconfig-ipv6-push fd00::9/64\n\
            push \"auth-token abc.DEF-123\"\npush \"auth-token-user YWxpY2U=\"\ninactive 60 1000\n";
        let (overlay, left_out) = parse("ccd/alice", text);
        assert_eq!(left_out, Vec::<String>::new());
        assert_eq!(overlay.push.len(), 2);
        assert_eq!(overlay.iroutes.len(), 2);
        assert_eq!(
            overlay.ifconfig,
            Some(([10, 8, 0, 9].into(), [255, 255, 255, 0].into()))
        );
        assert_eq!(overlay.token.as_ref().unwrap().expose(), "abc.DEF-123");
        assert_eq!(overlay.token_user.as_deref(), Some("alice"));
        assert_eq!(overlay.inactive, Some((Duration::from_secs(60), 1000)));
        assert!(!format!("{overlay:?}").contains("DEF-123"));
    }

    #[test]
    fn illegal_lines_are_named_and_left_out() {
        let text = b"keepalive 10 60\niroute 10.0.0.0 255.0.255.0\npush \"a,b\"\nifconfig-push 10.8.0.9\nnonsense\npush ok\n";
        let (overlay, left_out) = parse("script", text);
        assert_eq!(overlay.push, [PushEdit::Add("ok".into())]);
        assert_eq!(left_out.len(), 5, "{left_out:?}");
        assert!(
            left_out[0].starts_with("script:1:1: keepalive:"),
            "{}",
            left_out[0]
        );
    }

    #[test]
    fn tokens_that_clients_cannot_use_are_faults_without_the_value() {
        let long = "x".repeat(128);
        for bad in [
            "",
            "has space",
            "q'uote",
            "back\\slash",
            long.as_str(),
            "a,b",
            "n\u{e4}h",
        ] {
            let text = format!("push \"auth-token {}\"\n", bad.replace('\\', "\\\\"));
            let (overlay, _) = parse("script", text.as_bytes());
            let fault = overlay.fault.unwrap_or_default();
            // An empty value is no token option at all: the option is pushed as it stands, and does nothing.
            assert!(bad.is_empty() || !fault.is_empty(), "{bad:?}");
            assert!(bad.len() < 3 || !fault.contains(bad));
            assert!(overlay.token.is_none());
        }
    }

    #[test]
    fn rubbish_is_no_overlay() {
        for text in [
            &b"push \"unterminated"[..],
            b"\0\0\0",
            &[0xff; 100],
            b"<inline>\nx",
        ] {
            let (overlay, left_out) = parse("script", text);
            assert!(overlay.push.is_empty() && !left_out.is_empty());
        }
    }
}
