//! Tokens as an operator sees them.

use super::binding::Binding;
use super::hash::TokenId;
use super::record::TokenInfo;
use super::slots::Record;

/// Most tokens of a page: what a terminal can show, and what takes no notable time to collect.
pub const MAX_LISTED: usize = 1000;

/// Which tokens to list. What is `None` lets all through.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenFilter<'a> {
    /// Exactly this username.
    pub username: Option<&'a str>,
    /// Exactly this common name.
    pub common_name: Option<&'a str>,
}

impl TokenFilter<'_> {
    pub(super) fn matches(&self, info: &TokenInfo) -> bool {
        self.matches_binding(&info.binding)
    }

    pub(super) fn matches_binding(&self, binding: &Binding) -> bool {
        self.username.is_none_or(|name| name == binding.username())
            && self.common_name.is_none_or(|name| name == binding.common_name())
    }
}

/// A line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// Its public name.
    pub id: TokenId,
    /// All that is known of it.
    pub info: TokenInfo,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl ListedToken {
    pub(super) fn of(record: &Record) -> Self {
        Self { id: record.hash().id(), info: record.info(), revoked: record.is_revoked() }
    }
}
