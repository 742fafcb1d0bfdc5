//! The kernel interfaces: UDP listener groups, trains of datagrams, TUN, netlink, and the control-plane I/O seam.
//!
//! Data flow: [`udp`] and [`tcp`] open the sockets, [`recv`] and [`send`] move the data workers' datagrams, [`tun`] carries the
//! inner packets, [`io`] drives the session shards' sockets, [`netlink`] makes (and takes away) addresses and routes.

pub mod cmsg;
pub mod io;
pub mod netlink;
pub mod path;
pub mod port_share;
pub mod recv;
pub mod send;
pub mod steering;
pub mod sys;
pub mod tcp;
pub mod tun;
pub mod udp;

pub use path::{LocalAddr, Path};
pub use port_share::{PortShare, ShareHandle, ShareSpec};
pub use recv::{RecvBatch, RecvCounters, Train};
pub use send::{SendCounters, SendQueue};
pub use sys::{receive_fill, try_send_now};
pub use tcp::StreamGroup;
pub use udp::{Family, ListenSpec, ListenerGroup};
