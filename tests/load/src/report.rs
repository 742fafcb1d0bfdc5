//! What came of it: counts, latencies, CPU time; as text and as JSON.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Latencies are kept in microseconds up to this; longer ones count as this long.
const LONGEST_US: u64 = 600_000_000;
/// Three digits of every latency are kept.
const DIGITS: u8 = 3;
/// Reasons of failures that are told apart; a server that makes up texts shall not fill our memory.
const MAX_REASONS: usize = 50;
/// Where reasons beyond that are counted.
const OTHER_REASONS: &str = "other reasons";

/// A distribution of times.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_US, DIGITS);
        Self(times.unwrap_or_else(|error| unreachable!("the bounds are constant: {error}")))
    }
}

impl Times {
    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_US));
    }

    /// Percentiles so far.
    #[must_use]
    pub fn summary(&self) -> Percentiles {
        let ms = |us: u64| us as f64 / 1000.0;
        Percentiles {
            p50: ms(self.0.value_at_quantile(0.5)),
            p90: ms(self.0.value_at_quantile(0.9)),
            p99: ms(self.0.value_at_quantile(0.99)),
            max: ms(self.0.max()),
        }
    }
}

/// Milliseconds; 0 when nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of them took no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What is gathered while the engine runs.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// From the first packet to PUSH_REPLY, of logins with the password.
    pub password: Times,
    /// The same with a token.
    pub token: Times,
    /// Logins with the password that came through.
    pub password_logins: u64,
    /// Logins with a token that came through.
    pub token_logins: u64,
    /// How much later than planned logins began.
    pub lag: Times,
    /// Why logins failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Goodbyes that the server did not acknowledge.
    pub goodbyes_unanswered: u64,
    /// Datagrams that the system did not take; they are sent again.
    pub unsent: u64,
    /// Turns in which all source ports were in use or rested.
    pub port_waits: u64,
}

impl Gathered {
    /// Counts a failure.
    pub fn fail(&mut self, why: &str) {
        let known = self.failures.contains_key(why) || self.failures.len() < MAX_REASONS;
        let why = if known { why } else { OTHER_REASONS };
        let count = self.failures.entry(why.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// Logins that came through so far.
    #[must_use]
    pub const fn logins(&self) -> u64 {
        self.password_logins.saturating_add(self.token_logins)
    }

    /// The report of a run that took `elapsed` until the last login ended, and `cpu` of this process. `steady` is the time
    /// until nothing more was begun, and the logins that had come through by then: the rate is theirs, because the few
    /// that wait for a repetition at the end say nothing about how many a server can do. Where hardly any had come
    /// through, the rate is that of the whole run.
    #[must_use]
    pub fn report(&self, elapsed: Duration, steady: (Duration, u64), cpu: Duration) -> Report {
        let logins = self.logins();
        let (time, by_then) = if steady.1 < logins / 2 { (elapsed, logins) } else { steady };
        let per = |amount: f64, by: f64| if by > 0.0 { amount / by } else { 0.0 };
        Report {
            logins,
            password_logins: self.password_logins,
            token_logins: self.token_logins,
            failed: self.failures.values().sum(),
            failures: self.failures.clone(),
            elapsed_s: elapsed.as_secs_f64(),
            logins_per_s: per(by_then as f64, time.as_secs_f64()),
            password_latency_ms: self.password.summary(),
            token_latency_ms: self.token.summary(),
            start_lag_ms: self.lag.summary(),
            goodbyes_unanswered: self.goodbyes_unanswered,
            unsent: self.unsent,
            port_waits: self.port_waits,
            client_cpu_s: cpu.as_secs_f64(),
            client_cpu_ms_per_login: per(cpu.as_secs_f64() * 1000.0, logins as f64),
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Logins that came through.
    pub logins: u64,
    /// Of them, with the password (or the certificate alone).
    pub password_logins: u64,
    /// Of them, with a token.
    pub token_logins: u64,
    /// Logins that did not come through.
    pub failed: u64,
    /// Why, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Seconds from the first login's beginning to the last one's end, goodbyes aside.
    pub elapsed_s: f64,
    /// Logins that came through while others were still begun, by the second of that time.
    pub logins_per_s: f64,
    /// From the first packet to PUSH_REPLY.
    pub password_latency_ms: Percentiles,
    /// The same with a token.
    pub token_latency_ms: Percentiles,
    /// How much later than planned logins began: what a server that falls behind makes of a rate.
    pub start_lag_ms: Percentiles,
    /// Goodbyes that the server did not acknowledge.
    pub goodbyes_unanswered: u64,
    /// Datagrams that the system did not take.
    pub unsent: u64,
    /// Turns in which all source ports were in use or rested.
    pub port_waits: u64,
    /// CPU seconds of the load generator.
    pub client_cpu_s: f64,
    /// CPU milliseconds of the load generator for each login that came through.
    pub client_cpu_ms_per_login: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, p: &Percentiles| {
            writeln!(
                f,
                "{name}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                p.p50, p.p90, p.p99, p.max
            )
        };
        writeln!(
            f,
            "{} logins in {:.2} s: {:.1}/s; {} failed",
            self.logins, self.elapsed_s, self.logins_per_s, self.failed
        )?;
        for (why, count) in &self.failures {
            writeln!(f, "  {count} × {why}")?;
        }
        if self.password_logins > 0 {
            line(f, "latency to PUSH_REPLY", &self.password_latency_ms)?;
        }
        if self.token_logins > 0 {
            writeln!(f, "{} of the logins with a token", self.token_logins)?;
            line(f, "latency with a token", &self.token_latency_ms)?;
        }
        if self.start_lag_ms.max > 0.0 {
            line(f, "begun later than planned", &self.start_lag_ms)?;
        }
        let notes = [
            (self.goodbyes_unanswered, "goodbyes without an acknowledgement"),
            (self.unsent, "datagrams that the system did not take"),
            (self.port_waits, "turns without a free source port"),
        ];
        for (count, what) in notes.iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{count} {what}")?;
        }
        write!(
            f,
            "this program used {:.2} s of CPU, {:.3} ms a login",
            self.client_cpu_s, self.client_cpu_ms_per_login
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut times = Times::default();
        for ms in 1..=1000 {
            times.record(Duration::from_millis(ms));
        }
        let got = times.summary();
        // Three digits are kept.
        for (got, want) in [(got.p50, 500.0), (got.p90, 900.0), (got.p99, 990.0), (got.max, 1000.0)] {
            assert!((got - want).abs() <= want / 1000.0, "{got} instead of {want}");
        }
    }

    #[test]
    fn one_slow_login_of_a_hundred_is_not_p99_but_two_are() {
        let mut times = Times::default();
        for _ in 0..99 {
            times.record(Duration::from_millis(1));
        }
        times.record(Duration::from_secs(9));
        assert!(times.summary().p99 < 1.1);
        times.record(Duration::from_secs(9));
        assert!(times.summary().p99 > 8990.0);
    }

    #[test]
    fn nothing_and_too_much_are_no_fault() {
        let mut times = Times::default();
        assert_eq!(times.summary(), Percentiles { p50: 0.0, p90: 0.0, p99: 0.0, max: 0.0 });
        times.record(Duration::MAX);
        times.record(Duration::ZERO);
        assert!(times.summary().max >= 600_000.0);
    }

    #[test]
    fn rates_and_costs_are_by_login_that_came_through() {
        let mut gathered = Gathered { password_logins: 30, token_logins: 10, ..Gathered::default() };
        gathered.fail("a");
        gathered.fail("a");
        gathered.fail("b");
        let seconds = Duration::from_secs;
        let report = gathered.report(seconds(9), (seconds(3), 30), Duration::from_millis(80));
        assert_eq!((report.logins, report.failed), (40, 3));
        assert!((report.logins_per_s - 10.0).abs() < 1e-9);
        assert!((report.client_cpu_ms_per_login - 2.0).abs() < 1e-9);
        assert_eq!(report.failures, BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
        let text = report.to_string();
        assert!(text.contains("40 logins in 9.00 s: 10.0/s; 3 failed") && text.contains("2 × a"), "{text}");
    }

    #[test]
    fn a_run_that_was_all_beginning_counts_whole() {
        let gathered = Gathered { password_logins: 40, ..Gathered::default() };
        let report = gathered.report(Duration::from_secs(4), (Duration::from_millis(1), 0), Duration::ZERO);
        assert!((report.logins_per_s - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_without_logins_has_no_rates() {
        let report = Gathered::default().report(Duration::ZERO, (Duration::ZERO, 0), Duration::ZERO);
        assert_eq!((report.logins_per_s, report.client_cpu_ms_per_login), (0.0, 0.0));
        serde_json::to_string(&report).unwrap();
    }

    #[test]
    fn reasons_are_bounded() {
        let mut gathered = Gathered::default();
        for n in 0..1000 {
            gathered.fail(&format!("text {n}"));
        }
        assert_eq!(gathered.failures.len(), MAX_REASONS + 1);
        assert_eq!(gathered.failures[OTHER_REASONS], 950);
    }
}
