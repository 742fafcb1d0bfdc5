//! The end-to-end cases: real clients, the gateway, network namespaces. One behaviour per file.

mod addresses;
mod cipher;
mod compression;
mod derivation;
mod engine;
mod float;
mod forms;
mod hook;
mod limits;
mod liveness;
mod loss;
mod mss;
mod neighbours;
mod protection;
mod rejection;
mod reply_address;
mod token;
mod transfer;
mod verify;
