//! Pings.

use std::time::Duration;

use crate::clock::eventually;
use crate::netns::Namespace;

/// Pings `address` (either family) until it answers, at most 10 s.
pub fn ping(from: &Namespace, address: &str) {
    eventually(&format!("answer to ping {address}"), Duration::from_secs(10), || {
        from.try_run(&["ping", "-n", "-c", "1", "-W", "1", address]).ok.then_some(())
    });
}

/// Sends one ping with so many bytes of payload, which the path may have to cut into fragments, and checks the answer.
pub fn ping_sized(from: &Namespace, address: &str, bytes: usize) {
    let bytes = bytes.to_string();
    let done = from.try_run(&["ping", "-n", "-c", "1", "-W", "5", "-s", &bytes, address]);
    assert!(done.ok, "no answer to a ping of {bytes} bytes: {}", done.text);
}

/// Checks that three pings to `address` over 3 s stay unanswered.
pub fn ping_fails(from: &Namespace, address: &str) {
    let done = from.try_run(&["ping", "-n", "-c", "3", "-i", "1", "-W", "1", address]);
    assert!(!done.ok, "{address} answers, though it must not: {}", done.text);
}

/// Sends `count` pings, one per `interval_ms`, and gives how many were answered and the longest time in ms.
#[must_use]
pub fn pings(from: &Namespace, address: &str, count: u32, interval_ms: u32) -> (u32, f64) {
    let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
    let text =
        from.try_run(&["ping", "-n", "-c", &count.to_string(), "-i", &interval, "-W", "2", address]).text;
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    let answered = u32::try_from(times.len()).expect("as many as were sent");
    (answered, times.into_iter().fold(0.0, f64::max))
}
