//! Which rung of the data path is used: the highest that works here, and why it is not a higher one.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use tracing::info;

use super::StartError;
use crate::config::Config;
use crate::data::Rung;
use crate::exit;
use crate::net::recv::enable_gro;
use crate::net::send::probe_gso;
use crate::net::tun::{Tun, TunSpec};

/// The choice so far: each step may lower it, unless the configuration names the rung.
#[derive(Debug, Clone)]
pub(super) struct Datapath {
    rung: Rung,
    forced: bool,
    /// Why there is no higher rung.
    why: String,
}

impl Datapath {
    /// Looks at what the kernel's sockets can do.
    ///
    /// # Errors
    /// When the configuration names a rung that they cannot carry.
    pub(super) fn probe(wanted: Option<Rung>) -> Result<Self, StartError> {
        let rung = wanted.unwrap_or(Rung::Steered);
        let why = match wanted {
            Some(rung) => format!("the configuration says 'datapath {rung}'"),
            None => "no higher rung is in this release".to_owned(),
        };
        let mut datapath = Self { rung, forced: wanted.is_some(), why };
        if let Err(error) = probe_sockets() {
            datapath.lower(Rung::Offload, &format!("UDP GRO and GSO: {error}"))?;
        }
        Ok(datapath)
    }

    /// The rung that is left.
    pub(super) const fn rung(&self) -> Rung {
        self.rung
    }

    /// Why it is not a higher one.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Opens the device as the rung needs it.
    ///
    /// # Errors
    /// When there is no device, or none that carries super-packets where the configuration insists on a rung with them.
    pub(super) fn open_tun(&mut self, config: &Config, queues: usize) -> Result<Tun, StartError> {
        let dev = config.device.name.clone().unwrap_or_else(|| "tun".to_owned());
        let plain = TunSpec { dev, node: config.device.node.clone(), queues, offload: false };
        if self.rung >= Rung::Offload {
            match Tun::open(&TunSpec { offload: true, ..plain.clone() }) {
                Ok(tun) => return Ok(tun),
                // The same fault may well hit the plain device, and is then reported for that.
                Err(error) => self.lower(Rung::Offload, &format!("super-packets of the TUN: {error}"))?,
            }
        }
        Tun::open(&plain).map_err(|error| StartError::io("", &error))
    }

    /// What is to be known of the choice, once it is made.
    pub(super) fn announce(&self, workers: usize) {
        info!("data path: rung {} with {workers} worker(s); not higher: {}", self.rung, self.why);
    }

    /// `rung` does not work here.
    fn lower(&mut self, rung: Rung, why: &str) -> Result<(), StartError> {
        if self.rung < rung {
            return Ok(());
        }
        if self.forced {
            let message = format!("datapath {}: rung {rung} does not work here: {why}", self.rung);
            return Err(StartError { code: exit::RUNTIME, message });
        }
        self.rung = if rung == Rung::Steered { Rung::Offload } else { Rung::Basic };
        why.clone_into(&mut self.why);
        Ok(())
    }
}

fn probe_sockets() -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    enable_gro(socket.as_fd())?;
    probe_gso(socket.as_fd())
}
