//! Which tokens expire next, which are one client's, which are one login's. Only the paths that change the cache use
//! it; a check never does.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Lineage, TokenHash, TokenInfo, UnixSeconds};

/// A place in the order of expiry.
type Due = (UnixSeconds, TokenHash);

/// Whose tokens count together: one user with one certificate. Ordered by username first.
type Client = (String, Option<[u8; 32]>);

/// Three orders of the same set of tokens.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_expiry: BTreeSet<Due>,
    by_client: BTreeMap<Client, BTreeSet<Due>>,
    by_lineage: BTreeMap<Lineage, BTreeSet<TokenHash>>,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.by_expiry.len()
    }

    pub(super) fn add(&mut self, hash: TokenHash, info: &TokenInfo) {
        self.by_expiry.insert((info.expires, hash));
        self.by_client.entry(client(info)).or_default().insert((info.expires, hash));
        self.by_lineage.entry(info.lineage).or_default().insert(hash);
    }

    pub(super) fn remove(&mut self, hash: TokenHash, info: &TokenInfo) {
        let due = (info.expires, hash);
        self.by_expiry.remove(&due);
        if let Some(tokens) = self.by_client.get_mut(&client(info)) {
            tokens.remove(&due);
            if tokens.is_empty() {
                self.by_client.remove(&client(info));
            }
        }
        if let Some(tokens) = self.by_lineage.get_mut(&info.lineage) {
            tokens.remove(&hash);
            if tokens.is_empty() {
                self.by_lineage.remove(&info.lineage);
            }
        }
    }

    /// The token that expires first, of all.
    pub(super) fn next_due(&self) -> Option<Due> {
        self.by_expiry.first().copied()
    }

    /// How many tokens the client of `info` has, and which of them expires first.
    pub(super) fn of_client(&self, info: &TokenInfo) -> (usize, Option<TokenHash>) {
        let tokens = self.by_client.get(&client(info));
        (tokens.map_or(0, BTreeSet::len), tokens.and_then(|t| t.first()).map(|(_, hash)| *hash))
    }

    /// The tokens of `username`, under whatever certificate.
    pub(super) fn of_user(&self, username: &str) -> Vec<TokenHash> {
        self.by_client
            .range((username.to_owned(), None)..)
            .take_while(|((name, _), _)| name == username)
            .flat_map(|(_, tokens)| tokens.iter().map(|(_, hash)| *hash))
            .collect()
    }

    /// The tokens of one login.
    pub(super) fn of_lineage(&self, lineage: Lineage) -> Vec<TokenHash> {
        self.by_lineage.get(&lineage).into_iter().flatten().copied().collect()
    }
}

fn client(info: &TokenInfo) -> Client {
    (info.binding.username.clone(), info.binding.certificate)
}
