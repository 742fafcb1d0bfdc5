//! Our server against our client on a virtual clock, over a network that loses, reorders, duplicates and corrupts.
//!
//! Every run follows from a seed: the same seed gives the same schedule. A failing run names its seed; replay it with
//! `TESSERA_SIM_SEED=<seed> cargo test -p tessera-sim`.

pub mod net;
pub mod pki;
pub mod random;
pub mod world;

pub use net::{Faults, Side};
pub use random::Seeded;
pub use world::{Mode, Options, World};
