//! `tessera-load data` and `tessera-load sink`.

use crate::{Server, print, rate, say};
use clap::Args;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use tessera_load::data::{self, DataPlan, Direction, Far, Sizes};

/// What a load is made of.
#[derive(Debug, Args)]
struct Load {
    /// Peers; each has a port of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    peers: usize,
    /// Length of inner packets in bytes; imix is 7:4:1 of 64, 594 and 1400
    #[arg(long, value_name = "BYTES", default_value = "1400", value_parser = Sizes::from_str)]
    size: Sizes,
    /// Measure for so long
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86400))]
    seconds: u32,
    /// Inner packets a second and direction, instead of as fast as there is room
    #[arg(long, value_name = "PPS", value_parser = rate)]
    rate: Option<f64>,
    /// Flows of each peer, told apart by their ports
    #[arg(long, value_name = "K", default_value_t = 1)]
    streams_per_peer: u16,
    /// Packets handed over as one (UDP_SEGMENT); 1 sends datagrams of their own
    #[arg(long, value_name = "N", default_value_t = data::mix::TRAIN_SEGMENTS)]
    train: u16,
    /// With --train 1: packets in a row to one peer (sendmmsg)
    #[arg(long, value_name = "N", default_value_t = 32)]
    burst: u16,
    /// Memory for packets that are sealed before the clock runs, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    bank_mib: u64,
    /// Network namespace of the peers (/run/netns/NAME)
    #[arg(long, value_name = "NAME")]
    client_netns: Option<String>,
    /// Network namespace of the far end
    #[arg(long, value_name = "NAME")]
    lan_netns: Option<String>,
    /// Cores that this program's threads keep to
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

/// Options of `data`.
#[derive(Debug, Args)]
pub(crate) struct Data {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    load: Load,
    /// Which way: up (peers to LAN), down, or both at the same time
    #[arg(long, value_name = "WAY", default_value = "up", value_parser = Direction::from_str)]
    direction: Direction,
    /// Address of the host behind the gateway: this program receives and sends there, ports 5001 and 5002
    #[arg(long, value_name = "IP", required_unless_present = "idle")]
    lan_host: Option<Ipv4Addr>,
    /// Probes for latency, a second and direction, by a peer of their own; 0 for none
    #[arg(long, value_name = "PPS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    probe_rate: u32,
    /// Only log in, say when all are in, and hold the sessions for the time given
    #[arg(long)]
    idle: bool,
    /// Logins under way at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
}

/// Options of `sink`.
#[derive(Debug, Args)]
pub(crate) struct Sink {
    /// Address and UDP port of the sink, in --lan-netns
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddr,
    #[command(flatten)]
    load: Load,
}

impl Data {
    /// Runs it, and prints the report.
    pub(crate) fn run(&self) -> Result<ExitCode, String> {
        let lan_host = self.lan_host.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let plan = DataPlan {
            direction: self.direction,
            probe_rate: self.probe_rate,
            idle: self.idle,
            concurrency: self.concurrency,
            ..self.load.plan(Far::Gateway { target: self.server.target()?, lan_host })
        };
        self.load.run(&plan)
    }
}

impl Sink {
    /// Runs it, and prints the report.
    pub(crate) fn run(&self) -> Result<ExitCode, String> {
        self.load.run(&self.load.plan(Far::Sink(self.server)))
    }
}

impl Load {
    fn plan(&self, far: Far) -> DataPlan {
        DataPlan {
            peers: self.peers,
            sizes: self.size,
            time: Duration::from_secs(self.seconds.into()),
            rate: self.rate,
            streams: self.streams_per_peer,
            train: self.train,
            burst: self.burst,
            bank: self.bank_mib << 20,
            client_netns: self.client_netns.clone(),
            lan_netns: self.lan_netns.clone(),
            cores: self.cores.clone(),
            ..DataPlan::new(far)
        }
    }

    fn run(&self, plan: &DataPlan) -> Result<ExitCode, String> {
        let ready = || say(&format!("ready: {} peers are in", plan.peers));
        let report = data::run(plan, ready).map_err(|error| error.to_string())?;
        print(&report, self.json)?;
        Ok(ExitCode::from(u8::from(!report.sessions_ended.is_empty())))
    }
}
