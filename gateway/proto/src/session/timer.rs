//! Every deadline of a session, by name.

use crate::time::Instant;

/// What a session waits for. Retransmissions are not here: each negotiation knows its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// A negotiation must be through (`hand-window`).
    Handshake,
    /// The first login must be decided and configured.
    Login,
    /// A renegotiation is due (`reneg-sec`).
    Renegotiate,
    /// The new key seals from here on, whatever the peer does.
    Promote,
    /// The negotiation behind the old key is forgotten.
    LameChannel,
    /// The old key is forgotten (`tran-window`).
    LameKey,
    /// A client repeats its PUSH_REQUEST.
    PushRequest,
    /// What is left of a closed session is forgotten.
    Close,
}

impl Timer {
    const ALL: [Self; 8] = [
        Self::Handshake,
        Self::Login,
        Self::Renegotiate,
        Self::Promote,
        Self::LameChannel,
        Self::LameKey,
        Self::PushRequest,
        Self::Close,
    ];

    /// For logs and debugging: which timer a deadline belongs to.
    const fn reason(self) -> &'static str {
        match self {
            Self::Handshake => "handshake window",
            Self::Login => "login",
            Self::Renegotiate => "renegotiation",
            Self::Promote => "key promotion",
            Self::LameChannel => "lame-duck channel",
            Self::LameKey => "lame-duck key",
            Self::PushRequest => "push request",
            Self::Close => "close",
        }
    }
}

/// One slot per timer.
#[derive(Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; Timer::ALL.len()]);

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = Some(at);
        }
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = None;
        }
    }

    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    /// One timer that is over by `now`, stopped. The order of [`Timer`] decides among several.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|timer| self.at(*timer).is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }

    /// The next deadline and what it is for.
    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        Timer::ALL.into_iter().filter_map(|timer| Some((self.at(timer)?, timer.reason()))).min()
    }

    fn at(&self, timer: Timer) -> Option<Instant> {
        self.0.get(timer as usize).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn table_follows_the_enum() {
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, index);
        }
    }

    #[test]
    fn expires_each_once() {
        let at = |s| Instant::from_epoch(Duration::from_secs(s));
        let mut table = TimerTable::default();
        table.set(Timer::Close, at(5));
        table.set(Timer::Handshake, at(7));
        assert_eq!(table.next(), Some((at(5), "close")));
        assert_eq!(table.expire(at(4)), None);
        assert_eq!(table.expire(at(9)), Some(Timer::Handshake));
        assert_eq!(table.expire(at(9)), Some(Timer::Close));
        assert_eq!(table.expire(at(9)), None);
    }
}
