//! Checks of the token cache with a million entries, and what an entry takes.
//!
//!     cargo bench -p tesserad --bench token_cache
//!     GLIBC_TUNABLES=glibc.malloc.hugetlb=1 cargo bench -p tesserad --bench token_cache    # with huge pages
//!
//! One iteration is one check: of ten tokens eight are valid, one is unknown and one is another client's. Time is the
//! processor time of all threads together, so throughput is that of one core, whatever else runs on the machine; what
//! threads cost each other shows in it.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark says what it measured, and may fail"
)]

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use criterion::{Criterion, Throughput};
use nix::time::{ClockId, clock_gettime};
use ring::rand::SystemRandom;
use tessera_proto::Secret;
use tesserad::tokens::{Binding, Lineage, Presented, TokenCache, TokenLimits, TokenVerdict, UnixSeconds};

const ENTRIES: u64 = 1_000_000;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// Coprime with the number of entries: visits all of them in an order that no cache likes.
const STRIDE: u64 = 618_033_989;

/// Checks between two looks at the clock. What a client presents was just received: it is in the processor's caches, as
/// this much is, and the entries are not.
const BATCH: u64 = 1024;

struct Probe {
    token: Secret<String>,
    username: String,
    certificate: [u8; 32],
    is_valid: bool,
}

/// Set in the process that only fills a cache with this many tokens for each client.
const FILL: &str = "TOKEN_CACHE_FILL";

fn main() {
    if let Ok(tokens_per_client) = env::var(FILL) {
        fill_and_tell(tokens_per_client.parse().expect("a number"));
        return;
    }
    for tokens_per_client in ["1", "4"] {
        // A process for each: memory that was used before would hide what the second one takes.
        let mut child = Command::new(env::current_exe().expect("this program"));
        assert!(child.env(FILL, tokens_per_client).status().expect("a child").success());
    }
    measure(&filled(1));
}

fn fill_and_tell(tokens_per_client: u64) {
    let before = resident_bytes();
    let cache = filled(tokens_per_client);
    let (stats, grown) = (cache.stats(), resident_bytes() - before);
    assert_eq!((stats.entries, stats.evicted), (ENTRIES, 0));
    println!(
        "{ENTRIES} tokens of {} clients: {} bytes of resident memory per entry, {} accounted",
        stats.clients,
        grown / ENTRIES,
        stats.bytes / ENTRIES
    );
}

fn measure(cache: &TokenCache) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(6))
        .sample_size(30)
        .configure_from_args();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[7; 32]);
    let value = token(1);
    criterion.bench_function("token_cache/keyed hash alone", |bencher| {
        bencher.iter(|| ring::hmac::sign(&key, black_box(value.expose().as_bytes())));
    });
    let mut group = criterion.benchmark_group("token_cache/check");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 2] {
        group.bench_function(format!("{threads} threads"), |bencher| {
            bencher.iter_custom(|iterations| timed(cache, iterations, threads));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// The processor time that `threads` take for `iterations` together.
fn timed(cache: &TokenCache, iterations: u64, threads: u64) -> Duration {
    std::thread::scope(|scope| {
        let run = |thread: u64| {
            let (mut at, mut taken) = (thread * ENTRIES / threads, Duration::ZERO);
            // The first thread does what does not divide.
            let mut left = iterations / threads + if thread == 0 { iterations % threads } else { 0 };
            while left > 0 {
                let batch = left.min(BATCH);
                let probes: Vec<Probe> =
                    (at..at + batch).map(|number| probe(number * STRIDE % ENTRIES)).collect();
                (at, left) = (at + batch, left - batch);
                let before = processor_time();
                for probe in &probes {
                    let presented =
                        Presented { username: &probe.username, certificate: Some(&probe.certificate) };
                    let verdict = cache.check(black_box(&probe.token), &presented, NOW);
                    assert_eq!(matches!(verdict, TokenVerdict::Valid(_)), probe.is_valid);
                }
                taken += processor_time() - before;
            }
            taken
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    })
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock").into()
}

fn filled(tokens_per_client: u64) -> TokenCache {
    let limits = TokenLimits { entries: ENTRIES as usize, entries_per_client: 64, bytes: usize::MAX };
    let cache = TokenCache::new(limits, &SystemRandom::new()).expect("randomness");
    for number in 0..ENTRIES {
        let client = number / tokens_per_client;
        let username = username(client);
        let binding = Binding::new(&username, Some(certificate(client)), &username).expect("a binding");
        // A day of logins, and tokens of twelve hours.
        let lifetime = Duration::from_secs(12 * 3600 + number % (24 * 3600));
        cache.insert(&token(number), binding, Lineage(number), NOW, lifetime).expect("a token");
    }
    cache
}

fn probe(number: u64) -> Probe {
    let (unknown, stranger) = (number % 10 == 3, number % 10 == 7);
    Probe {
        token: token(if unknown { number + ENTRIES } else { number }),
        username: username(if stranger { number + 1 } else { number }),
        certificate: certificate(number),
        is_valid: !unknown && !stranger,
    }
}

fn token(number: u64) -> Secret<String> {
    Secret::new(format!("a-token-of-forty-three-characters-{number:09}"))
}

fn username(client: u64) -> String {
    format!("user{client:07}@example.org")
}

fn certificate(client: u64) -> [u8; 32] {
    let mut certificate = [0x5a; 32];
    for (to, from) in certificate.iter_mut().zip(client.to_le_bytes()) {
        *to = from;
    }
    certificate
}

fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = pages.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("resident pages");
    pages * 4096
}
