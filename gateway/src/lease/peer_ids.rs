//! Peer-ids: the worker that its address names or the least loaded one gets the next client, and a freed id rests before it is used again.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tessera_ebpf_common::PeerIdLayout;
use tessera_ebpf_common::steer::worker_of_address;
use tessera_wire::PeerId;

/// How long a released peer-id rests. Packets, steering-map updates and worker reports for its former owner that are
/// still under way have ended by then.
pub const REUSE_DELAY: Duration = Duration::from_secs(60);

/// Slots a worker may have beyond `max-clients`, so that ids at rest do not keep clients out: 270 clients may leave
/// each second for ever before an id is missing. It bounds the tables that are indexed by slot.
const RESTING_SLOTS: u32 = 16 * 1024;

/// How many clients more than another a worker may get because their addresses name it. Remembered and static addresses choose
/// their worker; past this, balance is worth more than steering them by arithmetic.
pub(super) const IMBALANCE: u32 = 16;

/// Why there is no peer-id. Either way the client may try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdError {
    /// `max-clients` are connected.
    #[error("max-clients ({0}) are connected")]
    TooManyClients(u32),
    /// So many clients left within [`REUSE_DELAY`] that each free id still rests.
    #[error("all free peer-ids were released less than {} s ago", REUSE_DELAY.as_secs())]
    AllResting,
}

/// Where a peer-id is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Wherever there are the fewest clients.
    Any,
    /// At the worker that this address names, unless that has `IMBALANCE` more clients than another: then anywhere.
    Address(IpAddr),
    /// At this worker, whatever it has: it owns the client's connection.
    Exactly(usize),
}

/// One allocation of a peer-id. The generation tells it from every other allocation of the same id, so that a late
/// writer for a former owner can be told apart and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerHandle {
    /// The id on the wire.
    pub id: PeerId,
    /// Unique over the life of the process.
    pub generation: u64,
}

/// Hands out peer-ids whose low bits name the worker that owns the client.
#[derive(Debug)]
pub struct PeerIdAllocator {
    layout: PeerIdLayout,
    max_clients: u32,
    slot_limit: u32,
    live: u32,
    last_generation: u64,
    workers: Vec<Worker>,
}

/// The slots of one worker. Each slot below `slots.len()` is in exactly one place: live (`Some`), free, or resting.
#[derive(Debug, Default)]
struct Worker {
    live: u32,
    /// The generation that holds the slot.
    slots: Vec<Option<u64>>,
    free: BTreeSet<u32>,
    /// In the order of release.
    resting: VecDeque<(Instant, u32)>,
}

impl PeerIdAllocator {
    /// An allocator for at most `max_clients` clients at a time. When the layout has fewer ids than that, the ids
    /// are the bound.
    #[must_use]
    pub fn new(layout: PeerIdLayout, max_clients: u32) -> Self {
        Self {
            layout,
            max_clients: max_clients.min(layout.slots().saturating_mul(layout.workers())),
            slot_limit: max_clients.saturating_add(RESTING_SLOTS).min(layout.slots()),
            live: 0,
            last_generation: 0,
            workers: (0..layout.workers()).map(|_| Worker::default()).collect(),
        }
    }

    /// Every slot that is ever used is below this: the size of a table with one entry per slot of one worker.
    #[must_use]
    pub const fn slot_limit(&self) -> u32 {
        self.slot_limit
    }

    /// Every peer-id that is ever used is below this.
    #[must_use]
    pub const fn peer_id_limit(&self) -> u32 {
        self.slot_limit.saturating_mul(self.layout.workers())
    }

    /// How many clients hold a peer-id.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// A peer-id at the wished worker, or at the one with the fewest clients (the first of equals). It has the lowest slot there
    /// that rested long enough. `now` must not run backwards.
    ///
    /// # Errors
    /// [`PeerIdError`]; the client should be asked to come back later.
    pub fn allocate(&mut self, wish: Wish, now: Instant) -> Result<PeerHandle, PeerIdError> {
        if self.live >= self.max_clients {
            return Err(PeerIdError::TooManyClients(self.max_clients));
        }
        for worker in &mut self.workers {
            worker.wake(now);
        }
        let with_slot = self.workers.iter().filter(|worker| worker.has_slot(self.slot_limit));
        let Some(least) = with_slot.map(|worker| worker.live).min() else {
            return Err(PeerIdError::AllResting);
        };
        let fits = |worker: &Worker, most: u32| {
            worker.has_slot(self.slot_limit) && worker.live <= least.saturating_add(most)
        };
        let named = match wish {
            Wish::Any => None,
            Wish::Address(address) => Some((worker_of_address(address, self.layout) as usize, IMBALANCE)),
            Wish::Exactly(worker) => Some((worker, u32::MAX)),
        };
        let named = named.filter(|(index, most)| self.workers.get(*index).is_some_and(|w| fits(w, *most)));
        let chosen = match (named, wish) {
            (Some((index, _)), _) => Some(index),
            (None, Wish::Exactly(_)) => None,
            (None, _) => self.workers.iter().position(|worker| fits(worker, 0)),
        };
        let Some(index) = chosen else { return Err(PeerIdError::AllResting) };
        self.last_generation += 1;
        let generation = self.last_generation;
        let slot = self.workers[index].take(generation);
        self.live += 1;
        let id = self
            .layout
            .compose(slot, index as u32)
            .expect("slots are below slot_limit, workers below workers()");
        Ok(PeerHandle { id, generation })
    }

    /// The worker with the fewest clients: what an address is best chosen for.
    #[must_use]
    pub fn next_worker(&self) -> usize {
        self.workers.iter().enumerate().min_by_key(|(_, worker)| worker.live).map_or(0, |(index, _)| index)
    }

    /// How peer-ids and addresses name workers.
    #[must_use]
    pub const fn layout(&self) -> PeerIdLayout {
        self.layout
    }

    /// Returns a peer-id, which rests from `now` on. `false` when `handle` is not live: it was released before, and
    /// nothing changes.
    pub fn release(&mut self, handle: PeerHandle, now: Instant) -> bool {
        let slot = self.layout.slot_of(handle.id);
        let Some(worker) = self.workers.get_mut(self.layout.worker_of(handle.id) as usize) else {
            return false;
        };
        let released = worker.put(slot, handle.generation, now);
        self.live -= u32::from(released);
        released
    }

    /// Whether `handle` is the present holder of its id.
    #[must_use]
    pub fn is_live(&self, handle: PeerHandle) -> bool {
        self.workers
            .get(self.layout.worker_of(handle.id) as usize)
            .and_then(|worker| worker.slots.get(self.layout.slot_of(handle.id) as usize))
            .is_some_and(|holder| *holder == Some(handle.generation))
    }
}

impl Worker {
    /// Frees the slots that rested long enough.
    fn wake(&mut self, now: Instant) {
        while let Some(&(released, slot)) = self.resting.front() {
            if now.saturating_duration_since(released) < REUSE_DELAY {
                break;
            }
            self.resting.pop_front();
            self.free.insert(slot);
        }
    }

    fn has_slot(&self, slot_limit: u32) -> bool {
        !self.free.is_empty() || self.slots.len() < slot_limit as usize
    }

    /// The lowest free slot, or one more. Call only after `has_slot`.
    fn take(&mut self, generation: u64) -> u32 {
        self.live += 1;
        if let Some(slot) = self.free.pop_first() {
            self.slots[slot as usize] = Some(generation);
            return slot;
        }
        self.slots.push(Some(generation));
        u32::try_from(self.slots.len() - 1).expect("slot_limit is below 2^24")
    }

    fn put(&mut self, slot: u32, generation: u64, now: Instant) -> bool {
        match self.slots.get_mut(slot as usize) {
            Some(holder) if *holder == Some(generation) => *holder = None,
            _ => return false,
        }
        self.live -= 1;
        self.resting.push_back((now, slot));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn allocator(workers: u32, max_clients: u32) -> PeerIdAllocator {
        PeerIdAllocator::new(PeerIdLayout::new(workers).unwrap(), max_clients)
    }

    #[test]
    fn clients_spread_over_the_workers() {
        let mut ids = allocator(4, 100);
        let now = crate::clock::now();
        let handles: Vec<_> = (0..8).map(|_| ids.allocate(Wish::Any, now).unwrap()).collect();
        assert_eq!(handles.iter().map(|h| h.id.get()).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        // Two clients leave worker 2: the next two go there, into new slots.
        assert!(ids.release(handles[2], now));
        assert!(ids.release(handles[6], now));
        assert_eq!(ids.allocate(Wish::Any, now).unwrap().id.get(), 2 << 2 | 2);
        assert_eq!(ids.allocate(Wish::Any, now).unwrap().id.get(), 3 << 2 | 2);
    }

    #[test]
    fn addresses_choose_the_worker_within_balance() {
        let mut ids = allocator(2, 100);
        let now = crate::clock::now();
        let even = Wish::Address(IpAddr::from([10, 8, 0, 4]));
        let mut counts = [0; 2];
        for _ in 0..40 {
            counts[ids.allocate(even, now).unwrap().id.get() as usize & 1] += 1;
        }
        assert_eq!(counts, [20 + IMBALANCE / 2 + 1, 20 - IMBALANCE / 2 - 1]);
        assert_eq!(ids.next_worker(), 1);
        let odd = Wish::Address("fd00::3".parse().unwrap());
        assert_eq!(ids.allocate(odd, now).unwrap().id.get() & 1, 1);
        for _ in 0..30 {
            assert_eq!(ids.allocate(Wish::Exactly(0), now).unwrap().id.get() & 1, 0);
        }
        assert!(ids.allocate(Wish::Exactly(2), now).is_err());
    }

    #[test]
    fn an_id_rests_for_a_minute() {
        let mut ids = allocator(1, 1);
        let start = crate::clock::now();
        let first = ids.allocate(Wish::Any, start).unwrap();
        assert_eq!(ids.allocate(Wish::Any, start), Err(PeerIdError::TooManyClients(1)));
        assert!(ids.release(first, start));
        let second = ids.allocate(Wish::Any, start + REUSE_DELAY - Duration::from_millis(1)).unwrap();
        assert_ne!(second.id, first.id);
        assert!(ids.release(second, start + REUSE_DELAY));
        let third = ids.allocate(Wish::Any, start + REUSE_DELAY).unwrap();
        assert_eq!(third.id, first.id);
        assert_ne!(third.generation, first.generation);
        assert!(!ids.is_live(first));
        assert!(!ids.release(first, start + REUSE_DELAY), "a former owner frees nothing");
        assert!(ids.is_live(third));
    }

    #[test]
    fn churn_is_bounded() {
        let mut ids = allocator(1, 2);
        let start = crate::clock::now();
        for _ in 0..ids.slot_limit() {
            let handle = ids.allocate(Wish::Any, start).unwrap();
            assert!(handle.id.get() < ids.slot_limit());
            ids.release(handle, start);
        }
        assert_eq!(ids.allocate(Wish::Any, start), Err(PeerIdError::AllResting));
        assert!(ids.allocate(Wish::Any, start + REUSE_DELAY).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate,
        Release(usize),
        ReleaseAgain(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Allocate),
            3 => any::<usize>().prop_map(Step::Release),
            1 => any::<usize>().prop_map(Step::ReleaseAgain),
            1 => (0u64..70).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn no_id_is_held_twice_or_reused_early(
            bits in 0u32..4,
            max_clients in 1u32..24,
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let layout = PeerIdLayout::new(1 << bits).unwrap();
            let mut ids = PeerIdAllocator::new(layout, max_clients);
            let mut now = crate::clock::now();
            let mut live: Vec<PeerHandle> = Vec::new();
            let mut gone: Vec<PeerHandle> = Vec::new();
            let mut released_at: HashMap<PeerId, Instant> = HashMap::new();
            for step in steps {
                match step {
                    Step::Allocate => match ids.allocate(Wish::Any, now) {
                        Ok(handle) => {
                            prop_assert!(live.iter().all(|other| other.id != handle.id));
                            if let Some(released) = released_at.get(&handle.id) {
                                prop_assert!(now - *released >= REUSE_DELAY);
                            }
                            let load = |worker| live.iter().filter(|h| layout.worker_of(h.id) == worker).count();
                            let least = (0..layout.workers()).map(load).min().unwrap();
                            prop_assert_eq!(load(layout.worker_of(handle.id)), least);
                            live.push(handle);
                        }
                        Err(error) => {
                            prop_assert_eq!(error, PeerIdError::TooManyClients(max_clients));
                            prop_assert_eq!(live.len(), max_clients as usize);
                        }
                    },
                    Step::Release(n) if !live.is_empty() => {
                        let handle = live.swap_remove(n % live.len());
                        prop_assert!(ids.release(handle, now));
                        released_at.insert(handle.id, now);
                        gone.push(handle);
                    }
                    Step::ReleaseAgain(n) if !gone.is_empty() => {
                        prop_assert!(!ids.release(gone[n % gone.len()], now));
                    }
                    Step::Release(_) | Step::ReleaseAgain(_) => {}
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                prop_assert_eq!(ids.live() as usize, live.len());
                prop_assert!(live.len() <= max_clients as usize);
            }
        }
    }
}
