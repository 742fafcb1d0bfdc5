//! Why a BPF program did what it did with a packet: the indexes of its per-CPU counters.

/// What became of a packet. Each program counts the reasons that it knows; the others stay 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Data: to the worker of its peer-id, or through the guard.
    Data = 0,
    /// Control: to the shard of its session id, or through the guard.
    Control = 1,
    /// An inner packet whose destination a route leads to a worker.
    Routed = 2,
    /// An inner packet whose destination address names the worker by itself.
    Addressed = 3,
    /// Nothing to steer by: to the first queue.
    NoAddress = 4,
    /// No socket stands at the chosen place: left to the kernel's hash, and to whoever receives it.
    NoSocket = 5,
    /// Dropped: too short for what it claims to be.
    Short = 6,
    /// Dropped: an opcode that nobody may send us.
    UnknownOpcode = 7,
    /// Dropped: P_DATA_V1, which names no peer.
    DataV1 = 8,
    /// Dropped: a peer-id that is nobody's.
    UnknownPeer = 9,
}

impl Reason {
    /// Every reason, by its index.
    pub const ALL: [Self; 10] = [
        Self::Data,
        Self::Control,
        Self::Routed,
        Self::Addressed,
        Self::NoAddress,
        Self::NoSocket,
        Self::Short,
        Self::UnknownOpcode,
        Self::DataV1,
        Self::UnknownPeer,
    ];

    /// How many there are: the entries of a counter map.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Place in the counter map.
    #[inline]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether packets that are counted here went no further.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        matches!(self, Self::Short | Self::UnknownOpcode | Self::DataV1 | Self::UnknownPeer)
    }

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control => "control",
            Self::Routed => "routed",
            Self::Addressed => "addressed",
            Self::NoAddress => "no_address",
            Self::NoSocket => "no_socket",
            Self::Short => "short",
            Self::UnknownOpcode => "unknown_opcode",
            Self::DataV1 => "data_v1",
            Self::UnknownPeer => "unknown_peer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_at_its_index() {
        for (index, reason) in (0..).zip(Reason::ALL) {
            assert_eq!(reason.index(), index);
        }
    }
}
