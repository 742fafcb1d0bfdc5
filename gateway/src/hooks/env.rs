//! The environment of a hook: ours by name, the peer's by rule.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use tessera_proto::Secret;
use tessera_proto::peer_info::PeerInfo;

/// Where hooks find programs. The daemon's own search path may hold what a hook must not see.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Most variables that a peer may set; a stock client sets about twenty.
const MAX_PEER_KEYS: usize = 64;
/// Longest value that a peer may set.
const MAX_PEER_VALUE: usize = 256;

/// Variables by name. Copies share them until one of them changes.
#[derive(Debug, Clone)]
pub struct Env {
    vars: Arc<BTreeMap<String, Secret<String>>>,
    read: bool,
}

impl Default for Env {
    fn default() -> Self {
        Self { vars: Arc::default(), read: true }
    }
}

impl Env {
    /// One that stays empty whatever is set: for a gateway that neither runs programs nor has plugins.
    #[must_use]
    pub fn unread() -> Self {
        Self { vars: Arc::default(), read: false }
    }

    /// Whether what is set is kept.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        self.read
    }

    /// Nothing but the search path.
    #[must_use]
    pub fn new() -> Self {
        let mut env = Self::default();
        env.set("PATH", PATH);
        env
    }

    /// Sets a variable of ours. Values are one line of text: line breaks and other control characters become `_`, because
    /// scripts read environments line by line.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        if !self.read {
            return self;
        }
        let value: String = value.into();
        let clean = if value.chars().any(char::is_control) { printable(&value) } else { value };
        Arc::make_mut(&mut self.vars).insert(name.to_owned(), Secret::new(clean));
        self
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        if self.vars.contains_key(name) {
            Arc::make_mut(&mut self.vars).remove(name);
        }
        self
    }

    /// Adds what a client says about itself: only `IV_…` and `UV_…` with letters, digits and underscores, so that no name
    /// can meet one of ours or one that a shell or a loader obeys. What is set already stays. As with OpenVPN a space, `$`,
    /// `(` or backtick in a value becomes `_`.
    pub fn set_peer_info(&mut self, info: &PeerInfo) -> &mut Self {
        if !self.read {
            return self;
        }
        let allowed = |key: &str| {
            let rest = key.strip_prefix("IV_").or_else(|| key.strip_prefix("UV_"));
            rest.is_some_and(|rest| {
                !rest.is_empty()
                    && rest.len() <= 64
                    && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            })
        };
        let fits = |value: &str| value.len() <= MAX_PEER_VALUE && !value.chars().any(char::is_control);
        let mut room = MAX_PEER_KEYS;
        for (key, value) in info.iter().filter(|(k, v)| allowed(k) && fits(v)) {
            if room > 0 && !self.vars.contains_key(key) {
                self.set(key, value.replace([' ', '$', '(', '`'], "_"));
                room -= 1;
            }
        }
        self
    }

    /// A variable's value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(|value| value.expose().as_str())
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.keys().map(String::as_str)
    }

    /// Names and values, sorted by name. For the hosts of plugins, which get them without a copy in between.
    pub(crate) fn vars(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.vars.iter().map(|(name, value)| (name.as_str(), value.expose().as_str()))
    }

    /// For the new process.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.vars.iter().map(|(name, value)| (name.into(), value.expose().into()))
    }
}

/// Text with control characters replaced by `_`: how names of peers reach hooks and logs.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_set_only_their_own_names() {
        let mut env = Env::new();
        env.set("username", "alice");
        let text = "IV_VER=2.6\nUV_OK=a b;$(id)\nLD_PRELOAD=x\nIDS=1\nusername=root\nUV_lower=1\nUV_=1\nPATH=/evil\nIV_X=a\rb\n";
        env.set_peer_info(&PeerInfo::parse(text));
        assert_eq!(env.names().collect::<Vec<_>>(), ["IV_VER", "PATH", "UV_OK", "UV_lower", "username"]);
        assert_eq!(env.value("UV_OK"), Some("a_b;__id)"), "as OpenVPN 2.6 was seen to hand it on");
        assert_eq!(env.value("username"), Some("alice"));
        assert_eq!(env.value("PATH"), Some(PATH));
    }

    #[test]
    fn what_the_operator_set_stays() {
        let mut env = Env::default();
        env.set("UV_ZONE", "blue");
        env.set_peer_info(&PeerInfo::parse("UV_ZONE=red\nUV_NEW=1\nUV_NEW=2\n"));
        assert_eq!(env.value("UV_ZONE"), Some("blue"));
        assert_eq!(env.value("UV_NEW"), Some("1"));
    }

    #[test]
    fn three_hundred_keys_and_long_values_are_bounded() {
        let many: String = (0..300).map(|i| format!("UV_K{i}=1\n")).collect();
        let mut env = Env::default();
        env.set_peer_info(&PeerInfo::parse(&many));
        assert_eq!(env.names().count(), MAX_PEER_KEYS);
        let mut env = Env::default();
        env.set_peer_info(&PeerInfo::parse(&format!("UV_LONG={}\n", "x".repeat(257))));
        assert_eq!(env.names().count(), 0);
    }

    #[test]
    fn copies_go_their_own_ways() {
        let mut first = Env::new();
        first.set("username", "alice");
        let mut second = first.clone();
        second.set("username", "bob").unset("PATH");
        assert_eq!(first.value("username"), Some("alice"));
        assert_eq!(first.value("PATH"), Some(PATH));
        assert_eq!(second.value("username"), Some("bob"));
        assert_eq!(second.value("PATH"), None);
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let mut env = Env::unread();
        env.set("username", "alice").set_peer_info(&PeerInfo::parse("IV_VER=2.6\n"));
        assert_eq!(env.clone().names().count(), 0);
    }

    #[test]
    fn no_value_spans_lines() {
        let mut env = Env::default();
        env.set("common_name", "a\nLD_PRELOAD=b\0c");
        assert_eq!(env.value("common_name"), Some("a_LD_PRELOAD=b_c"));
    }
}
