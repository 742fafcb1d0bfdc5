//! Reads per-client directives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use tessera_proto::{Cipher, Secret};

use super::{Overlay, PushEdit};
use crate::config::{Directive, Place, lex};
use crate::routes::Prefix;

/// Most directives of one client.
const MAX_DIRECTIVES: usize = 1000;
/// Longest token that clients keep.
const MAX_TOKEN: usize = 127;
/// Longest pushed option: the parts of a push reply have 940 bytes for options, and an option is never split.
const MAX_PUSH: usize = 900;
/// The option that pushes a token.
const TOKEN: &str = "auth-token";

/// Most findings about one text: a binary file should not print a book.
const MAX_FINDINGS: usize = 20;

/// Reads a ccd file or what `client-connect` wrote. The second value is what was left out, and why.
///
/// Each line stands for itself, as with OpenVPN: an unreadable one must not take a `disable` with it. Two things are faults
/// that refuse the client, because leaving them out would change what it is: more directives than are read, and an
/// unreadable line about a token.
#[must_use]
pub fn parse(source: &str, text: &[u8]) -> (Overlay, Vec<String>) {
    let mut overlay = Overlay::default();
    let mut left_out = Vec::new();
    let mut directives = 0;
    let name: Arc<str> = source.into();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u32..) {
        let found = match lex(source, line) {
            Ok(found) => found,
            Err(problems) => {
                left_out.extend(problems.into_iter().map(|mut problem| {
                    problem.place = on_line(&name, number, &problem.place);
                    problem.to_string()
                }));
                let about_token = line.windows(TOKEN.len()).any(|word| word == TOKEN.as_bytes());
                if about_token && !line.trim_ascii_start().starts_with(b"#") {
                    overlay.fault = Some(format!("{source}:{number}: a line about an {TOKEN} is unreadable"));
                }
                continue;
            }
        };
        for directive in &found {
            directives += 1;
            let taken = overlay.take(directive);
            if let Some(fault) = overlay.token_fault.take() {
                let place = on_line(&name, number, &directive.place);
                overlay.fault.get_or_insert(format!("{place}: the {TOKEN} that was pushed {fault}"));
            }
            if let Err(why) = taken {
                let place = on_line(&name, number, &directive.place);
                left_out.push(format!("{place}: {}: {why}", printable(&directive.name)));
            }
        }
        if directives > MAX_DIRECTIVES {
            overlay.fault = Some(format!("{source}: more than {MAX_DIRECTIVES} directives"));
            break;
        }
    }
    if left_out.len() > MAX_FINDINGS {
        let more = left_out.len() - MAX_FINDINGS;
        left_out.truncate(MAX_FINDINGS);
        left_out.push(format!("{source}: {more} more faults"));
    }
    (overlay, left_out)
}

/// The place in the whole text of what was found in one line of it.
fn on_line(source: &Arc<str>, line: u32, place: &Place) -> Place {
    match place {
        Place::File { column, .. } => Place::file(source, line, *column),
        other => other.clone(),
    }
}

/// The beginning of a name that may be any rubbish.
fn printable(name: &str) -> String {
    name.chars().take(40).map(|c| if c.is_control() { '_' } else { c }).collect()
}

type Taken = Result<(), &'static str>;

impl Overlay {
    fn take(&mut self, directive: &Directive) -> Taken {
        let arg = |index: usize| directive.arg(index);
        let first = || arg(0).ok_or("an argument is missing");
        match directive.name.as_str() {
            "push" => self.take_push(first()?, directive.args.len())?,
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

    /// Tokens are lifted out of the push list, however they are spaced: they are secrets, and must be usable.
    fn take_push(&mut self, option: &str, args: usize) -> Taken {
        let (word, rest) = option.trim_start().split_once(char::is_whitespace).unwrap_or((option.trim(), ""));
        if word == TOKEN {
            let token = Secret::new(rest.trim().to_owned());
            let fault = token_fault(token.expose());
            match fault.or((args > 1).then_some("is not quoted as one argument")) {
                None => self.token = Some(token),
                Some(fault) => self.token_fault = Some(fault),
            }
            return Ok(());
        }
        if args > 1 {
            return Err("push takes one argument: quote the option");
        }
        if word == "auth-token-user" {
            let user = rest.trim();
            if user.len() > MAX_TOKEN {
                return Err("the user name is longer than clients keep");
            }
            let decoded = base64::engine::general_purpose::STANDARD.decode(user).ok();
            let name = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let name = name.filter(|name| !name.contains(char::is_control));
            self.token_user = Some(name.ok_or("the user name is not base64 of printable UTF-8")?);
            return Ok(());
        }
        if option.len() > MAX_PUSH {
            return Err("the option does not fit into a control message");
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
    if bits > 128 { Err("more than 128 bits") } else { Ok((value(address)?, bits)) }
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
        assert_eq!(overlay.ifconfig, Some(([10, 8, 0, 9].into(), [255, 255, 255, 0].into())));
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
        assert!(left_out[0].starts_with("script:1:1: keepalive:"), "{}", left_out[0]);
    }

    #[test]
    fn tokens_that_clients_cannot_use_are_faults_without_the_value() {
        let long = "x".repeat(128);
        for bad in ["", "has space", "q'uote", "back\\slash", long.as_str(), "a,b", "n\u{e4}h"] {
            let text = format!("push \"auth-token {}\"\n", bad.replace('\\', "\\\\"));
            let (overlay, _) = parse("script", text.as_bytes());
            let fault = overlay.fault.unwrap_or_default();
            assert!(!fault.is_empty(), "{bad:?}");
            assert!(bad.len() < 3 || !fault.contains(bad));
            assert!(overlay.token.is_none());
        }
    }

    #[test]
    fn an_unreadable_line_takes_no_other_with_it() {
        let text = b"push a\nbad \"quote\npush b\npush c d\ndisable\n";
        let (overlay, left_out) = parse("ccd/x", text);
        assert_eq!(overlay.push, [PushEdit::Add("a".into()), PushEdit::Add("b".into())]);
        assert!(overlay.disable && overlay.fault.is_none());
        assert_eq!(left_out.len(), 2);
        assert!(left_out[0].starts_with("ccd/x:2:5: error: the double quote"), "{left_out:?}");
        assert!(left_out[1].starts_with("ccd/x:4:1: push:"), "{left_out:?}");
    }

    #[test]
    fn tokens_are_lifted_out_in_any_dress() {
        for line in [
            "push \"auth-token abc\"",
            "push \" auth-token  abc \"",
            "push \"auth-token\tabc\"",
            "push 'auth-token abc'\r",
        ] {
            let (overlay, left_out) = parse("s", line.as_bytes());
            assert_eq!(overlay.token.map(|t| t.expose().clone()).as_deref(), Some("abc"), "{line:?}");
            assert!(overlay.push.is_empty() && left_out.is_empty() && overlay.fault.is_none());
        }
        for line in [
            "push auth-token hunter2",
            "push \"auth-token hunter2",
            "push \"auth-token\"",
            "push \"auth-token hunter2\\x\"",
        ] {
            let (overlay, left_out) = parse("s", line.as_bytes());
            assert!(overlay.token.is_none() && overlay.push.is_empty(), "{line:?}");
            let told = format!("{overlay:?} {left_out:?}");
            assert!(overlay.fault.is_some() && !told.contains("hunter2"), "{told}");
        }
        let user = format!("push \"auth-token-user {}\"", "QUFB".repeat(32));
        assert!(parse("s", user.as_bytes()).0.token_user.is_none());
    }

    #[test]
    fn too_much_is_a_fault_and_findings_are_bounded() {
        let (overlay, _) = parse("s", "push x\n".repeat(1000).as_bytes());
        assert!(overlay.fault.is_none() && overlay.push.len() == 1000);
        assert!(parse("s", "push x\n".repeat(1001).as_bytes()).0.fault.is_some());
        assert_eq!(parse("s", "a 'b\n".repeat(5000).as_bytes()).1.len(), MAX_FINDINGS + 1);
        let long = format!("push \"echo {}\"", "x".repeat(MAX_PUSH));
        assert_eq!(parse("s", long.as_bytes()).1.len(), 1);
    }

    #[test]
    fn rubbish_is_no_overlay() {
        for text in
            [&b"push \"unterminated"[..], b"\0\0\0", &[0xff; 100], b"<inline>\nx\n</inline>", &[b'x'; 20_000]]
        {
            let (overlay, left_out) = parse("script", text);
            assert!(overlay.push.is_empty() && !left_out.is_empty());
        }
    }
}
