//! What the programs have counted.

use aya::maps::{MapData, PerCpuArray};
use tessera_ebpf_common::Reason;

use super::error::{BpfError, Program, failed};

/// Packets of one program by reason, summed over all CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters([u64; Reason::COUNT as usize]);

impl Counters {
    /// Reads the counter map of `program`.
    pub(super) fn read(program: Program, map: &PerCpuArray<MapData, u64>) -> Result<Self, BpfError> {
        let mut sums = [0u64; Reason::COUNT as usize];
        for (sum, reason) in sums.iter_mut().zip(Reason::ALL) {
            let by_cpu = map.get(&reason.index(), 0).map_err(|e| failed(program, "read the counters", &e))?;
            *sum = by_cpu.iter().fold(0, |sum, n| sum.wrapping_add(*n));
        }
        Ok(Self(sums))
    }

    /// How many packets met this fate.
    #[must_use]
    pub const fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.0)
    }

    /// How many packets the program dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.iter().filter(|(reason, _)| reason.is_drop()).map(|(_, n)| n).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_told_from_the_rest() {
        let mut counters = Counters([0; Reason::COUNT as usize]);
        for (count, reason) in counters.0.iter_mut().zip(Reason::ALL) {
            *count = if reason.is_drop() { 10 } else { 1 };
        }
        assert_eq!(counters.of(Reason::UnknownPeer), 10);
        assert_eq!(counters.of(Reason::NoSocket), 1);
        assert_eq!(counters.dropped(), 40);
        assert_eq!(counters.iter().count(), Reason::ALL.len());
    }
}
