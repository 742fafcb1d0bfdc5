//! The end-to-end cases: real clients, the gateway, network namespaces. One behaviour per file.

mod cipher;
mod derivation;
mod float;
mod hook;
mod protection;
mod rejection;
mod token;
mod transfer;
