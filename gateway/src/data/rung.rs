//! The rungs of the data path.

use std::fmt;

use serde::Serialize;

/// How packets are carried. Each rung does all that those below it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// One packet at a time in and out of the TUN, batches of datagrams. Needs nothing.
    Basic,
    /// Trains of datagrams by UDP GRO and GSO, super-packets in and out of the TUN.
    Offload,
    /// BPF programs bring packets to the worker that owns their peer.
    Steered,
}

impl Rung {
    /// All of them, the lowest first.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Offload, Self::Steered];

    /// Its name in configuration, log, status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Offload => "offload",
            Self::Steered => "steered",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
