//! Handshakes, logins and renegotiations of a pair, on every kind of network.

use std::time::Duration;
use tessera_proto::Digest;
use tessera_sim::world::{PASSWORD, TOKEN};
use tessera_sim::{Mode, Options, World};

const MODES: [Mode; 4] = [Mode::None, Mode::TlsAuth(Digest::Sha256), Mode::TlsCrypt, Mode::TlsCryptV2];

fn connect(world: &mut World) {
    let connected = world.journal.connected;
    let done = world.run(Duration::from_secs(60), |w| w.journal.connected > connected);
    assert!(done, "not connected within the handshake window: {world:?}");
}

#[test]
fn connects_in_every_mode_and_carries_data() {
    for mode in MODES {
        let mut world = World::new(Options::new(1, mode));
        connect(&mut world);
        for _ in 0..10 {
            world.exchange_data();
            world.idle(Duration::from_millis(100));
        }
        assert_eq!(world.journal.delivered, (10, 10), "{mode:?}");
        assert_eq!(world.journal.passwords, [PASSWORD]);
    }
}

#[test]
fn renegotiates_from_either_side_with_the_token() {
    for mode in MODES {
        let mut world = World::new(Options::new(2, mode));
        connect(&mut world);
        for round in 1..=20 {
            let now = world.now();
            if round % 2 == 0 {
                world.client().renegotiate(now);
            } else {
                for handle in world.peers() {
                    world.endpoint().with(handle, |s| s.renegotiate(now));
                }
            }
            let done = world.run(Duration::from_secs(60), |w| w.journal.renegotiated == round);
            assert!(done, "{mode:?} round {round}: {world:?}");
            let before = world.journal.delivered;
            world.exchange_data();
            world.idle(Duration::from_secs(100));
            world.exchange_data();
            world.idle(Duration::from_secs(1));
            assert_eq!(world.journal.delivered, (before.0 + 2, before.1 + 2), "{mode:?} round {round}");
        }
        assert_eq!(world.journal.passwords[0], PASSWORD);
        assert!(world.journal.passwords[1..].iter().all(|p| p == TOKEN), "{:?}", world.journal.passwords);
    }
}
