//! What the end-to-end tests stand on: network namespaces, stock OpenVPN clients, the gateway (or a stock server in
//! its place), scratch PKIs, recorded hooks, a lossy relay, checked transfers.
//!
//! Everything is a value that cleans up behind itself on drop: processes are ended by their own id, namespaces are
//! deleted, folders removed. When a test panics, the logs of every process it started are printed first.
//!
//! ```text
//!   client 0 ──10.91.0.0/24──┐
//!   client 1 ──10.91.1.0/24──┼── gateway ──192.168.77.0/24── LAN host
//!   client n ──10.91.n.0/24──┘      │
//!        └──── tunnel 10.8.0.0/24, fd08::/64 ────┘
//! ```
//!
//! The functions panic with what went wrong: the caller is always a test. All waits are bounded.
//!
//! `TESSERA_E2E_DATAPATH=basic` (or any rung) makes every gateway use that rung of the data path; without it a gateway takes
//! the highest that works.
//!
//! `TESSERA_E2E_SERVER=openvpn` puts stock OpenVPN 2.6 in the gateway's place, which checks the tests themselves.

mod capture;
mod cli;
mod client;
mod clock;
mod command;
mod directory;
mod hooks;
mod management;
mod netns;
mod otp;
mod pam;
mod pki;
mod probe;
mod process;
mod relay;
mod server;
mod token;
mod topology;
mod transfer;

pub use capture::Capture;
pub use cli::{Cli, NewUser};
pub use client::{Client, ClientConfig, Version};
pub use clock::{Deadline, eventually, pause, unix_time};
pub use directory::Directory;
pub use hooks::{Call, Hooks};
pub use management::Management;
pub use netns::Namespace;
pub use otp::{hotp, scrv1, totp};
pub use pam::PamService;
pub use pki::{Identity, Pki};
pub use probe::{ping, ping_fails, ping_sized, pings};
pub use process::Process;
pub use relay::{Impairment, Relay};
pub use server::{Flavour, Server, ServerConfig, compile, genkey};
pub use token::{AuthToken, TokenKey};
pub use topology::{Net, PORT};
pub use transfer::{TcpSink, both_ways, transfer};
