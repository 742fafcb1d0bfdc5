//! When the next login begins, and with what.

use std::collections::VecDeque;
use std::time::Duration;
use tessera_proto::Instant;
use tessera_proto::session::Credentials;

/// When no more logins are begun; those under way are finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After so many.
    Count(u64),
    /// After so long.
    After(Duration),
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Most logins under way at a time; goodbyes do not count.
    pub concurrency: usize,
    /// When to stop.
    pub end: End,
    /// Logins a second; `None`: as many as `concurrency` allows.
    pub rate: Option<f64>,
    /// Every login with the password is followed by so many with its token.
    pub reconnects: u32,
}

/// One login that is to begin.
#[derive(Debug, Clone)]
pub struct Start {
    /// A token login's credentials; `None`: the password.
    pub token: Option<Credentials>,
    /// Logins with the token that follow this one.
    pub left: u32,
    /// How much later than planned it begins; zero without a rate.
    pub lag: Duration,
}

/// What to do now.
#[derive(Debug)]
pub enum Next {
    /// Begin this one.
    Begin(Start),
    /// Ask again then.
    At(Instant),
    /// Ask again when a login has ended.
    Wait,
    /// Nothing more is begun.
    Finished,
}

/// A plan in progress.
#[derive(Debug)]
pub struct Schedule {
    plan: Plan,
    started: Instant,
    begun: u64,
    running: usize,
    /// Token logins that wait for their turn. They go first, so there are never more than `concurrency`.
    tokens: VecDeque<(Credentials, u32)>,
}

impl Schedule {
    /// Starts now.
    #[must_use]
    pub const fn new(plan: Plan, now: Instant) -> Self {
        Self { plan, started: now, begun: 0, running: 0, tokens: VecDeque::new() }
    }

    /// What to do now. A login that is to begin counts as begun.
    pub fn next(&mut self, now: Instant) -> Next {
        let finished = match self.plan.end {
            End::Count(count) => self.begun >= count,
            End::After(time) => now.saturating_since(self.started) >= time,
        };
        if finished {
            return Next::Finished;
        }
        if self.running >= self.plan.concurrency {
            return Next::Wait;
        }
        let mut lag = Duration::ZERO;
        if let Some(rate) = self.plan.rate {
            // Reckoned from the start, so that no error adds up.
            let planned = self.started + Duration::from_secs_f64(self.begun as f64 / rate);
            if planned > now {
                return Next::At(planned);
            }
            lag = now.saturating_since(planned);
        }
        self.begun = self.begun.saturating_add(1);
        self.running = self.running.saturating_add(1);
        Next::Begin(match self.tokens.pop_front() {
            Some((token, left)) => Start { token: Some(token), left, lag },
            None => Start { token: None, left: self.plan.reconnects, lag },
        })
    }

    /// A login is through: `token` is what its successor logs in with, when `left` says that there is one.
    pub fn succeeded(&mut self, left: u32, token: Option<Credentials>) {
        self.running = self.running.saturating_sub(1);
        if let (Some(left), Some(token)) = (left.checked_sub(1), token) {
            self.tokens.push_back((token, left));
        }
    }

    /// A login has failed: the password is next.
    pub const fn failed(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Logins under way.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_proto::Secret;

    const T0: Instant = Instant::from_epoch(Duration::from_secs(1000));

    fn plan(concurrency: usize, end: End) -> Plan {
        Plan { concurrency, end, rate: None, reconnects: 0 }
    }

    fn token(text: &str) -> Option<Credentials> {
        Some(Credentials { username: "u".into(), password: Secret::new(text.to_owned()) })
    }

    fn begun(next: Next) -> Start {
        match next {
            Next::Begin(start) => start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keeps_to_concurrency_and_count() {
        let mut schedule = Schedule::new(plan(2, End::Count(3)), T0);
        begun(schedule.next(T0));
        begun(schedule.next(T0));
        assert!(matches!(schedule.next(T0), Next::Wait));
        schedule.failed();
        begun(schedule.next(T0));
        schedule.succeeded(0, None);
        assert!(matches!(schedule.next(T0), Next::Finished));
        assert_eq!(schedule.running(), 1);
    }

    #[test]
    fn ends_in_time() {
        let mut schedule = Schedule::new(plan(9, End::After(Duration::from_secs(5))), T0);
        begun(schedule.next(T0 + Duration::from_millis(4999)));
        assert!(matches!(schedule.next(T0 + Duration::from_secs(5)), Next::Finished));
    }

    #[test]
    fn a_rate_does_not_drift_and_names_its_lag() {
        let mut schedule = Schedule::new(Plan { rate: Some(3.0), ..plan(9, End::Count(100)) }, T0);
        begun(schedule.next(T0));
        let Next::At(second) = schedule.next(T0) else { panic!("the second one is not due") };
        assert_eq!(second.saturating_since(T0).as_millis(), 333);
        let late = begun(schedule.next(second + Duration::from_millis(7)));
        assert_eq!(late.lag.as_millis(), 7);
        let Next::At(third) = schedule.next(second) else { panic!("the third one is not due") };
        assert_eq!(third.saturating_since(T0).as_millis(), 666, "late or not");
    }

    #[test]
    fn a_password_is_followed_by_its_tokens() {
        let mut schedule = Schedule::new(Plan { reconnects: 2, ..plan(1, End::Count(9)) }, T0);
        let mut with = Vec::new();
        for n in 0..6 {
            let start = begun(schedule.next(T0));
            with.push(start.token.map(|t| t.password.expose().clone()).unwrap_or_default());
            schedule.succeeded(start.left, token(&format!("t{n}")));
        }
        assert_eq!(with, ["", "t0", "t1", "", "t3", "t4"]);
    }

    #[test]
    fn a_refused_token_is_not_tried_again() {
        let mut schedule = Schedule::new(Plan { reconnects: 5, ..plan(1, End::Count(9)) }, T0);
        let first = begun(schedule.next(T0));
        schedule.succeeded(first.left, token("t"));
        assert!(begun(schedule.next(T0)).token.is_some());
        schedule.failed();
        assert!(begun(schedule.next(T0)).token.is_none());
    }
}
