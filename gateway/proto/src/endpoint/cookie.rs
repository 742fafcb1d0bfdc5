//! The stateless cookie: our session id in the answer to a reset is a MAC over who asked and when.
//!
//! ```text
//!  session id = SipHash-2-4(key, slot ‖ address ‖ port ‖ client session id)      slot = time / (window / 2)
//! ```
//!
//! Whoever sends it back has received it, so its address is real; until then we remember nothing.

use crate::Secret;
use crate::time::Instant;
use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use siphasher::sip::SipHasher24;
use subtle::{Choice, ConstantTimeEq};
use tessera_wire::SessionId;

/// Slots before the current one whose cookies are still good.
const OLD_SLOTS: u32 = 2;

/// Makes and checks cookies. All threads of a process share one key, so that any of them may get the third packet.
#[derive(Debug, Clone)]
pub struct CookieKey {
    key: Secret<[u8; 16]>,
    slot: Duration,
}

impl CookieKey {
    /// `key` is random per process and never stored; `handshake_window` sets how long a cookie lives.
    pub fn new(key: [u8; 16], handshake_window: Duration) -> Self {
        let slot = (handshake_window / 2).max(Duration::from_secs(1));
        Self { key: Secret::new(key), slot }
    }

    /// The cookie for a client at `from` that calls itself `client`.
    pub fn issue(&self, now: Instant, from: SocketAddr, client: SessionId) -> SessionId {
        self.compute(self.slot_at(now), from, client)
    }

    /// True when `cookie` was issued to this very client at this very address, not long ago.
    pub fn verify(&self, now: Instant, from: SocketAddr, client: SessionId, cookie: SessionId) -> bool {
        let slot = self.slot_at(now);
        let mut good = Choice::from(0);
        for age in 0..=OLD_SLOTS {
            // Before the first slots have passed this wraps around to slots that no cookie was issued in.
            let expected = self.compute(slot.wrapping_sub(age), from, client);
            good |= expected.0.ct_eq(&cookie.0);
        }
        good.into()
    }

    fn slot_at(&self, now: Instant) -> u32 {
        now.since_epoch().as_millis().checked_div(self.slot.as_millis()).unwrap_or(0) as u32
    }

    fn compute(&self, slot: u32, from: SocketAddr, client: SessionId) -> SessionId {
        let mut mac = SipHasher24::new_with_key(self.key.expose());
        mac.write(&slot.to_be_bytes());
        match from.ip() {
            IpAddr::V4(ip) => {
                mac.write(&[4]);
                mac.write(&ip.octets());
            }
            IpAddr::V6(ip) => {
                mac.write(&[6]);
                mac.write(&ip.octets());
            }
        }
        mac.write(&from.port().to_be_bytes());
        mac.write(&client.0);
        SessionId(mac.finish().to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SessionId = SessionId([1, 2, 3, 4, 5, 6, 7, 8]);

    fn key() -> CookieKey {
        CookieKey::new(*b"0123456789abcdef", Duration::from_secs(60))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn good_for_its_client_for_three_slots() {
        let (key, from) = (key(), "192.0.2.1:1194".parse().unwrap());
        let cookie = key.issue(at(300), from, CLIENT);
        for now in [300, 329, 330, 360, 389] {
            assert!(key.verify(at(now), from, CLIENT, cookie), "{now}");
        }
        for now in [0, 269, 299, 390, 1000] {
            assert!(!key.verify(at(now), from, CLIENT, cookie), "{now}");
        }
    }

    #[test]
    fn any_other_bit_address_port_or_client_is_refused() {
        let (key, from) = (key(), "192.0.2.1:1194".parse().unwrap());
        let cookie = key.issue(at(0), from, CLIENT);
        assert!(key.verify(at(0), from, CLIENT, cookie));
        for bit in 0..64 {
            let mut bad = cookie;
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(at(0), from, CLIENT, bad));
            let mut other = CLIENT;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(at(0), from, other, cookie));
        }
        for elsewhere in ["192.0.2.1:1195", "192.0.2.2:1194", "[::ffff:192.0.2.1]:1194"] {
            assert!(!key.verify(at(0), elsewhere.parse().unwrap(), CLIENT, cookie), "{elsewhere}");
        }
        let other_key = CookieKey::new([9; 16], Duration::from_secs(60));
        assert!(!other_key.verify(at(0), from, CLIENT, cookie));
    }

    #[test]
    fn no_random_cookie_is_good() {
        let (key, from) = (key(), "[2001:db8::1]:1194".parse().unwrap());
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..1_000_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            assert!(!key.verify(at(50), from, CLIENT, SessionId(x.to_be_bytes())));
        }
    }
}
