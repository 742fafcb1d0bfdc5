//! Thousands of seeds: each a pair on a bad network that must connect, carry data, renegotiate and reconnect.
//!
//! Replay one: `TESSERA_SIM_SEED=<seed> cargo test -p tessera-sim --test storm`. More of them:
//! `TESSERA_SIM_SEEDS=100000 cargo test --release -p tessera-sim --test storm`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tessera_proto::Digest;
use tessera_sim::world::{PASSWORD, TOKEN};
use tessera_sim::{Faults, Mode, Options, Seeded, World};

/// Seeds of a plain run.
const SEEDS: u64 = 2_400;
/// `hand-window`: within this a handshake must be through.
const WINDOW: Duration = Duration::from_secs(60);

/// Network profiles, in parts per thousand. Corruption needs a MAC on the control channel to be harmless.
const CLEAN: Faults = Faults { loss: 0, duplicate: 0, delay: 0, corrupt: 0 };
const NOISY: Faults = Faults { loss: 62, duplicate: 50, delay: 125, corrupt: 31 };
const LOSSY: Faults = Faults { loss: 150, duplicate: 100, delay: 100, corrupt: 10 };
const AWFUL: Faults = Faults { loss: 300, duplicate: 300, delay: 200, corrupt: 10 };

fn options(seed: u64) -> Options {
    let mut rng = Seeded::new(seed.wrapping_mul(0x9e37));
    let mode = match rng.below(5) {
        0 => Mode::None,
        1 => Mode::TlsAuth(Digest::ALL[rng.below(4) as usize]),
        2 => Mode::TlsCrypt,
        _ => Mode::TlsCryptV2,
    };
    let mut options = Options::new(seed, mode);
    options.faults = match rng.below(4) {
        0 => CLEAN,
        1 => NOISY,
        2 => LOSSY,
        _ => AWFUL,
    };
    if mode == Mode::None {
        options.faults.corrupt = 0;
    }
    if rng.chance(200) {
        // A client of 2.4 or 2.5: no exporter, no dynamic tls-crypt, no push by itself.
        options.iv_proto = 2;
    }
    options.hook_delay = Duration::from_millis(rng.below(3000));
    options
}

/// Connects within the window, at the first attempt.
fn connect(world: &mut World) {
    let before = world.journal.connected;
    let done = world.run(WINDOW, |w| w.journal.connected > before);
    assert!(done, "not connected: {}", world.journal_summary());
}

fn exchange(world: &mut World) {
    // Enough packets that not all of them get lost.
    let before = world.journal.delivered;
    for _ in 0..40 {
        world.exchange_data();
        world.idle(Duration::from_millis(200));
    }
    let after = world.journal.delivered;
    assert!(after.0 > before.0 && after.1 > before.1, "no data gets through: {before:?} {after:?}");
}

fn run(seed: u64) {
    let mut rng = Seeded::new(seed ^ 0xabcd);
    let mut world = World::new(options(seed));
    connect(&mut world);
    exchange(&mut world);
    for _ in 0..3 {
        let now = world.now();
        let round = world.journal.renegotiated;
        if rng.chance(500) {
            world.client().renegotiate(now);
        } else {
            for handle in world.peers() {
                world.endpoint().with(handle, |s| s.renegotiate(now));
            }
        }
        let done = world.run(WINDOW, |w| w.journal.renegotiated > round);
        assert!(done, "renegotiation did not finish: {:?} {:?}", world.journal_summary(), world);
        exchange(&mut world);
        // Past every deferred switch of keys.
        world.idle(Duration::from_secs(rng.below(90)));
    }
    world.reconnect();
    connect(&mut world);
    exchange(&mut world);
    assert_eq!(world.journal.passwords[0], PASSWORD);
    assert_eq!(
        world.journal.passwords.last().map(String::as_str),
        Some(TOKEN),
        "the token is used at reconnect"
    );
    assert!(world.journal.refused.is_empty(), "nobody is refused");
}

#[test]
fn every_seed_survives() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("TESSERA_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TESSERA_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = seeds.clone();
                scope.spawn(move || {
                    seeds
                        .filter(|seed| seed % threads == thread)
                        .filter(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    assert!(failed.is_empty(), "replay with TESSERA_SIM_SEED=<seed>: {failed:?}");
}
