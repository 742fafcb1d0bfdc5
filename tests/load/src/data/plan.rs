//! What a run of data is to do.

use super::DataError;
use super::lan::LOAD_PORT;
use super::mix::{Sizes, TRAIN_SEGMENTS};
use super::sys;
use crate::engine::Target;
use crate::sockets::descriptors_for;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

/// Most peers: each needs a port.
pub const MOST_PEERS: usize = 50_000;
/// Descriptors for everything but peers.
const SPARE_DESCRIPTORS: u64 = 64;
/// A bank may take this much of the memory that can be had, in percent: the rest of the machine works, too.
const MEMORY_PERCENT: u64 = 75;

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the peers to the LAN.
    Up,
    /// From the LAN to the peers.
    Down,
    /// Both at the same time.
    Both,
}

impl Direction {
    /// Peers send.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up | Self::Both)
    }

    /// The LAN sends.
    #[must_use]
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }
}

impl FromStr for Direction {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        [Self::Up, Self::Down, Self::Both]
            .into_iter()
            .find(|direction| direction.name() == text)
            .ok_or_else(|| DataError::Plan(format!("direction {text:?}: 'up', 'down' or 'both'")))
    }
}

/// Who is at the far end.
#[derive(Debug, Clone)]
pub enum Far {
    /// A gateway, and a LAN host of ours behind it.
    Gateway {
        /// The gateway, and what peers log in with.
        target: Target,
        /// The LAN host's address.
        lan_host: Ipv4Addr,
    },
    /// Nobody but a sink of ours on this address, that counts sealed packets: what this program can do by itself. Nobody
    /// logs in; keys are made up.
    Sink(SocketAddr),
}

impl Far {
    /// Where peers send to.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        match self {
            Self::Gateway { target, .. } => target.server,
            Self::Sink(address) => *address,
        }
    }

    /// Nobody but a sink.
    #[must_use]
    pub const fn is_sink(&self) -> bool {
        matches!(self, Self::Sink(_))
    }
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct DataPlan {
    /// Peers under load.
    pub peers: usize,
    /// Logins under way at a time.
    pub concurrency: usize,
    /// Which way packets go.
    pub direction: Direction,
    /// Lengths of inner packets.
    pub sizes: Sizes,
    /// How long is measured (or, when idle, held).
    pub time: Duration,
    /// Inner packets a second and direction; `None` as fast as there is room.
    pub rate: Option<f64>,
    /// Flows of each peer, by port.
    pub streams: u16,
    /// Packets of a train, handed over as one (UDP_SEGMENT); 1 sends datagrams of their own. Long packets make it less.
    pub train: u16,
    /// With trains of 1: packets in a row to one peer, in one system call.
    pub burst: u16,
    /// Who is at the far end.
    pub far: Far,
    /// Probes a second each way; 0 for none.
    pub probe_rate: u32,
    /// Only log in and hold the sessions.
    pub idle: bool,
    /// Memory of the bank in bytes.
    pub bank: u64,
    /// Namespace of the clients, as `ip netns` names it.
    pub client_netns: Option<String>,
    /// Namespace of the LAN host.
    pub lan_netns: Option<String>,
    /// Cores that all threads share; none is wherever the system puts them.
    pub cores: Vec<usize>,
}

impl DataPlan {
    /// A plan with the usual numbers: one peer, up, 1400 bytes, five seconds, as fast as there is room, no probes.
    #[must_use]
    pub const fn new(far: Far) -> Self {
        Self {
            peers: 1,
            concurrency: 64,
            direction: Direction::Up,
            sizes: Sizes::One(1400),
            time: Duration::from_secs(5),
            rate: None,
            streams: 1,
            train: TRAIN_SEGMENTS,
            burst: 32,
            far,
            probe_rate: 0,
            idle: false,
            bank: 4096 << 20,
            client_netns: None,
            lan_netns: None,
            cores: Vec::new(),
        }
    }

    /// Looks whether it can be done, and raises the limit of descriptors.
    ///
    /// # Errors
    /// What is impossible.
    pub fn check(&self) -> Result<(), DataError> {
        let no = |text: String| Err(DataError::Plan(text));
        if !(1..=MOST_PEERS).contains(&self.peers) {
            return no(format!("peers: 1 to {MOST_PEERS}, not {}", self.peers));
        }
        if self.concurrency == 0 || self.streams == 0 || self.streams > 1000 {
            return no(
                "one login at a time and one stream a peer at least; a thousand streams at most".to_owned()
            );
        }
        if !(1..=TRAIN_SEGMENTS).contains(&self.train) || !(1..=TRAIN_SEGMENTS).contains(&self.burst) {
            return no(format!("trains and bursts are 1 to {TRAIN_SEGMENTS} packets"));
        }
        if self.rate.is_some_and(|rate| !(1.0..=1e9).contains(&rate)) {
            return no("a rate is 1 to 1000000000 packets a second".to_owned());
        }
        if self.far.is_sink() && (self.direction != Direction::Up || self.probe_rate > 0 || self.idle) {
            return no("a sink takes what goes up; it sends nothing, answers no probe and holds no session"
                .to_owned());
        }
        let downlinks = if self.direction.is_down() { self.peers * usize::from(self.streams) } else { 0 };
        let wanted = (self.peers + downlinks) as u64 + SPARE_DESCRIPTORS;
        let most = descriptors_for(wanted).map_err(DataError::io("the limit of descriptors"))?;
        if wanted > most {
            return no(format!("{wanted} sockets are needed and {most} descriptors allowed (ulimit -n)"));
        }
        let bytes = self.bank_bytes();
        if let Some(available) = sys::memory_available()
            && bytes > available / 100 * MEMORY_PERCENT
        {
            let (bytes, available) = (bytes >> 20, available >> 20);
            return no(format!(
                "a bank of {bytes} MiB, of {available} MiB that can be had: --bank-mib sets less"
            ));
        }
        Ok(())
    }

    /// Packets that are handed over together.
    #[must_use]
    pub fn together(&self, overhead: usize) -> u16 {
        self.sizes.train(if self.train == 1 { self.burst } else { self.train }, overhead)
    }

    /// Packets that are sent up at most, warm-up and some reserve included; `None` without a rate.
    #[must_use]
    pub fn packets(&self) -> Option<u64> {
        const RESERVE_S: f64 = 1.0;
        self.rate
            .map(|rate| (rate * (self.time.as_secs_f64() + RESERVE_S)) as u64 + u64::from(TRAIN_SEGMENTS))
    }

    /// Where loads go: the far end's address and port.
    #[must_use]
    pub fn load_address(&self) -> SocketAddrV4 {
        match &self.far {
            Far::Gateway { lan_host, .. } => SocketAddrV4::new(*lan_host, LOAD_PORT),
            Far::Sink(_) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, LOAD_PORT),
        }
    }

    /// Memory that the bank will take.
    fn bank_bytes(&self) -> u64 {
        if !self.direction.is_up() || self.idle {
            return 0;
        }
        let needed = self.packets().map_or(u64::MAX, |n| (n as f64 * (self.sizes.mean() + 25.0)) as u64);
        needed.min(self.bank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tessera_proto::session::Credentials;

    fn plan() -> DataPlan {
        let target = Target {
            server: "192.0.2.1:1194".parse().unwrap(),
            tls: Arc::new(tls()),
            credentials: Credentials::default(),
            limit: Duration::from_secs(1),
        };
        DataPlan { bank: 1 << 20, ..DataPlan::new(Far::Gateway { target, lan_host: Ipv4Addr::LOCALHOST }) }
    }

    fn tls() -> rustls::ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()
    }

    fn sink() -> Far {
        Far::Sink("127.0.0.1:1194".parse().unwrap())
    }

    #[test]
    fn the_usual_is_possible() {
        plan().check().unwrap();
        DataPlan { far: sink(), ..plan() }.check().unwrap();
    }

    #[test]
    fn what_is_impossible_is_said() {
        let cases = [
            (DataPlan { peers: 0, ..plan() }, "peers"),
            (DataPlan { peers: 50_001, ..plan() }, "peers"),
            (DataPlan { train: 65, ..plan() }, "trains"),
            (DataPlan { burst: 0, ..plan() }, "bursts"),
            (DataPlan { streams: 0, ..plan() }, "stream"),
            (DataPlan { rate: Some(0.0), ..plan() }, "rate"),
            (DataPlan { rate: Some(f64::NAN), ..plan() }, "rate"),
            (DataPlan { far: sink(), direction: Direction::Down, ..plan() }, "sink"),
            (DataPlan { bank: 1 << 60, ..plan() }, "--bank-mib"),
            (DataPlan { peers: 50_000, streams: 1000, direction: Direction::Down, ..plan() }, "ulimit"),
        ];
        for (plan, word) in cases {
            let text = plan.check().unwrap_err().to_string();
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_rate_makes_a_bank_for_the_whole_run() {
        let plan = DataPlan { rate: Some(1000.0), time: Duration::from_secs(2), ..plan() };
        assert_eq!(plan.packets(), Some(3064));
        assert_eq!(plan.together(24), 45);
        assert_eq!(DataPlan { train: 1, burst: 8, ..plan }.together(24), 8);
    }

    #[test]
    fn directions_have_names() {
        for direction in [Direction::Up, Direction::Down, Direction::Both] {
            assert_eq!(direction.name().parse::<Direction>().unwrap(), direction);
        }
        assert!("sideways".parse::<Direction>().is_err());
    }
}
