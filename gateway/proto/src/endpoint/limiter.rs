//! Bounds the answers to addresses that have proven nothing.
//!
//! A fixed table of token buckets, one per hashed prefix (IPv4 /32, IPv6 /56). There is no global bucket: a flood of
//! spoofed resets must not starve everybody else. Two prefixes that share a bucket share its rate; the hash is keyed,
//! so nobody can choose whom to share with.

use crate::time::Instant;
use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use siphasher::sip::SipHasher24;

/// Buckets: 64 KiB of memory whatever is sent.
const BUCKETS: usize = 4096;

/// Answers per prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyRate {
    /// How many in a row.
    pub burst: u32,
    /// How long it takes to earn that many again.
    pub per: Duration,
}

impl Default for ReplyRate {
    /// A burst that lets an office behind one address reconnect, and no more than a weak reflector needs.
    fn default() -> Self {
        Self { burst: 1000, per: Duration::from_secs(5) }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Limiter {
    key: [u8; 16],
    rate: ReplyRate,
    /// When each bucket will be full again; a bucket is empty when that is a whole period ahead.
    full_at: Box<[Duration]>,
}

impl Limiter {
    pub(super) fn new(key: [u8; 16], rate: ReplyRate) -> Self {
        Self { key, rate, full_at: vec![Duration::ZERO; BUCKETS].into_boxed_slice() }
    }

    /// Takes one token; false when there is none.
    pub(super) fn allow(&mut self, now: Instant, from: SocketAddr) -> bool {
        let cost = self.rate.per.checked_div(self.rate.burst).unwrap_or(Duration::MAX);
        let index = self.bucket(from);
        let Some(full_at) = self.full_at.get_mut(index) else {
            return false;
        };
        let now = now.since_epoch();
        let after = (*full_at).max(now).saturating_add(cost);
        if after.saturating_sub(now) > self.rate.per {
            return false;
        }
        *full_at = after;
        true
    }

    fn bucket(&self, from: SocketAddr) -> usize {
        let mut hash = SipHasher24::new_with_key(&self.key);
        match from.ip() {
            IpAddr::V4(ip) => hash.write(&ip.octets()),
            IpAddr::V6(ip) => hash.write(ip.octets().first_chunk::<7>().map_or(&[], |prefix| prefix)),
        }
        hash.finish() as usize % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = ReplyRate { burst: 10, per: Duration::from_secs(1) };
        let mut limiter = Limiter::new([1; 16], rate);
        let at = |ms| Instant::from_epoch(Duration::from_millis(ms));
        let from = "192.0.2.1:1".parse().unwrap();
        let allowed = |limiter: &mut Limiter, ms| (0..100).filter(|_| limiter.allow(at(ms), from)).count();
        assert_eq!(allowed(&mut limiter, 5000), 10);
        assert_eq!(allowed(&mut limiter, 5200), 2);
        assert_eq!(allowed(&mut limiter, 60_000), 10);
        assert!(limiter.allow(at(60_000), "198.51.100.7:1".parse().unwrap()), "others are not starved");
    }

    #[test]
    fn one_bucket_per_v6_prefix() {
        let mut limiter = Limiter::new([1; 16], ReplyRate { burst: 1, per: Duration::from_secs(10) });
        let now = Instant::from_epoch(Duration::from_secs(1));
        assert!(limiter.allow(now, "[2001:db8::1]:1".parse().unwrap()));
        assert!(!limiter.allow(now, "[2001:db8:0:1::2]:9".parse().unwrap()), "same /56");
    }
}
