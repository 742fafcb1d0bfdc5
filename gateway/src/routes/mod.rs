//! Which client an inner address belongs to: the tunnel addresses of clients and the networks behind them (`iroute`).
//!
//! Each data worker has its own copy, so that a lookup takes no lock. A lookup does not allocate; it costs one probe
//! per prefix length in use, the longest first, and a client's own address is the longest of all.

mod prefix;
mod table;

pub use prefix::{BadPrefix, Prefix};
pub use table::{RouteError, RouteTable};
