//! What the gateway tells control tools, as types: their JSON is the documented contract.

pub mod config;

/// Version of the contract. It changes when a field goes or changes its meaning; new fields do not change it.
pub const API_VERSION: u32 = 1;
