//! Tessera, the gateway daemon: module map in the order of the data flow.

pub mod accounts;
pub mod admin;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod data;
pub mod directory;
pub mod exit;
pub mod genkey;
pub mod hooks;
pub mod lease;
pub mod net;
pub mod overlay;
pub mod pam;
pub mod pki;
pub mod plugins;
pub mod routes;
pub mod shard;
pub mod store;
pub mod tokens;
