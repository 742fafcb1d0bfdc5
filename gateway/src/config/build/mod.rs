//! From directives to the typed configuration: the draft that handlers fill, and what handlers share.

pub(super) mod access;
pub(super) mod finish;
pub(super) mod network;
pub(super) mod process;
pub(super) mod tls;
pub(super) mod transport;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Place};
use super::lex::Directive;
use super::model::{Config, CookieMode, KeyDirection, MssFix, Protocol, Source};

/// What became of one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Honoured.
    Honoured,
    /// Honoured, and there is something to know about it.
    Noted(String),
    /// Nothing was done, for this reason, and no harm comes from it.
    Ignored(String),
}

/// What a handler returns; the error refuses the start.
pub(super) type Outcome = Result<Effect, Diagnostic>;

/// A handler: applies one directive whose number of arguments has been checked.
pub(super) type Handler = fn(&mut Draft, &Directive) -> Outcome;

/// Longest timer: OpenVPN holds seconds in an `int`.
pub(super) const MAX_SECONDS: u64 = i32::MAX as u64;

/// A directive's value with its place.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What a `proto` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proto {
    pub(super) protocol: Protocol,
    pub(super) family: ProtoFamily,
}

impl Proto {
    /// Without any `proto`.
    pub(super) const DEFAULT: Self = Self { protocol: Protocol::Udp, family: ProtoFamily::Any };

    /// Whether an address is of its family.
    pub(super) fn fits(self, address: IpAddr) -> bool {
        match self.family {
            ProtoFamily::Any => true,
            ProtoFamily::V4 => address.is_ipv4(),
            ProtoFamily::V6 => address.is_ipv6(),
        }
    }
}

/// The family in a `proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProtoFamily {
    Any,
    V4,
    V6,
}

/// One `local`.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) proto: Option<Proto>,
}

/// `auth-gen-token`, before the other timers are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct GenTokenTimes {
    pub(super) lifetime: Option<Duration>,
    pub(super) renewal: Option<Duration>,
    pub(super) external_auth: bool,
}

/// An explicit IPv4 pool: first, last, netmask.
type PoolRange = (Ipv4Addr, Ipv4Addr, Option<Ipv4Addr>);

/// What handlers fill: the configuration, and what must be known in full before it can be resolved.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) base: PathBuf,
    pub(super) places: BTreeMap<String, Place>,
    pub(super) server: Option<Placed<(Ipv4Addr, u8, bool)>>,
    pub(super) server6: Option<Placed<(Ipv6Addr, u8)>>,
    pub(super) mode_server: bool,
    pub(super) tls_server: bool,
    pub(super) pool: Option<Placed<PoolRange>>,
    pub(super) route_gateway: Option<Ipv4Addr>,
    pub(super) keepalive: Option<Placed<(u64, u64)>>,
    pub(super) locals: Vec<Placed<Local>>,
    pub(super) port: Option<u16>,
    pub(super) proto: Option<Proto>,
    pub(super) push_nodelay: bool,
    pub(super) ipv6_only: bool,
    pub(super) bind_device: Option<String>,
    pub(super) mssfix: Option<MssFix>,
    pub(super) tls_auth: Option<Source>,
    pub(super) tls_auth_direction: Option<KeyDirection>,
    pub(super) key_direction: Option<KeyDirection>,
    pub(super) tls_crypt: Option<Source>,
    pub(super) tls_crypt_v2: Option<(Source, CookieMode)>,
    pub(super) tls_crypt_v2_max_age: Option<Duration>,
    pub(super) gen_token: Option<Placed<GenTokenTimes>>,
    pub(super) gen_token_secrets: Vec<Source>,
    pub(super) bind_certificate: bool,
    pub(super) remote_cert_tls: bool,
    pub(super) unusable_auth: Option<Placed<String>>,
    pub(super) status_version: Option<u8>,
    pub(super) problems: Vec<Diagnostic>,
}

impl Draft {
    /// An empty draft; relative paths are joined with `base`.
    pub(super) fn new(base: &Path) -> Self {
        Self { base: base.to_owned(), ..Self::default() }
    }

    /// Where the directive was given last, if it was.
    pub(super) fn given(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// The path, joined with the working directory.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    /// The source that a directive names by its body or its first argument.
    pub(super) fn source(&self, directive: &Directive) -> Result<Source, Diagnostic> {
        if let Some(body) = &directive.inline {
            return Ok(Source::Inline(body.clone()));
        }
        let path = text(directive, 0)?;
        if path.is_empty() {
            return Err(Diagnostic::error(directive.arg_place(0), "the file name is empty"));
        }
        Ok(Source::File(self.path(path)))
    }
}

/// A fault in argument `index`.
pub(super) fn bad(directive: &Directive, index: usize, message: impl Display) -> Diagnostic {
    Diagnostic::error(directive.arg_place(index), format!("{}: {message}", directive.name))
}

/// Argument `index`, which must be there.
pub(super) fn text(directive: &Directive, index: usize) -> Result<&str, Diagnostic> {
    directive.arg(index).ok_or_else(|| bad(directive, index, format!("argument {} is missing", index + 1)))
}

/// Argument `index` as a whole number in `range`.
pub(super) fn number<T>(
    directive: &Directive,
    index: usize,
    range: RangeInclusive<T>,
) -> Result<T, Diagnostic>
where
    T: FromStr + PartialOrd + Display,
{
    let text = text(directive, index)?;
    let wanted = format!("a whole number from {} to {}", range.start(), range.end());
    match text.parse::<T>() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(bad(directive, index, format!("'{text}' is not {wanted}"))),
    }
}

/// Argument `index` as seconds.
pub(super) fn seconds(
    directive: &Directive,
    index: usize,
    range: RangeInclusive<u64>,
) -> Result<Duration, Diagnostic> {
    number(directive, index, range).map(Duration::from_secs)
}

/// Argument `index` as seconds, where 0 means "never".
pub(super) fn seconds_or_never(directive: &Directive, index: usize) -> Result<Option<Duration>, Diagnostic> {
    let value = seconds(directive, index, 0..=MAX_SECONDS)?;
    Ok((!value.is_zero()).then_some(value))
}

/// Argument `index` as one of the words.
pub(super) fn word<T: Copy>(
    directive: &Directive,
    index: usize,
    words: &[(&str, T)],
) -> Result<T, Diagnostic> {
    let text = text(directive, index)?;
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        bad(directive, index, format!("'{text}' is not one of: {}", known.join(", ")))
    })
}

/// Argument `index` as an IPv4 address.
pub(super) fn ipv4(directive: &Directive, index: usize) -> Result<Ipv4Addr, Diagnostic> {
    let text = text(directive, index)?;
    text.parse().map_err(|_| bad(directive, index, format!("'{text}' is not an IPv4 address")))
}

/// Argument `index` as a netmask: the number of its bits.
pub(super) fn netmask(directive: &Directive, index: usize) -> Result<u8, Diagnostic> {
    let mask = ipv4(directive, index)?;
    prefix_of(mask).ok_or_else(|| bad(directive, index, format!("'{mask}' is not a netmask")))
}

/// The number of leading ones, if nothing but zeros follows.
pub(super) const fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    if bits.leading_ones() + bits.trailing_zeros() >= 32 { Some(bits.leading_ones() as u8) } else { None }
}

/// Argument `index` as `address/bits`.
pub(super) fn ipv6_prefix(directive: &Directive, index: usize) -> Result<(Ipv6Addr, u8), Diagnostic> {
    let text = text(directive, index)?;
    let parse = || {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 128)?;
        Some((address.parse().ok()?, prefix))
    };
    parse().ok_or_else(|| bad(directive, index, format!("'{text}' is not an IPv6 network (address/bits)")))
}
