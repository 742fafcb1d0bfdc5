//! The result of a run of data, as text and as JSON.

use super::count::Arrived;
use super::drive::Offered;
use super::probe::Probed;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The result. Lengths are those of inner IP packets; all counts are of the measured time unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DataReport {
    /// Peers under load (a probing one comes on top).
    pub peers: usize,
    /// `up`, `down` or `both`; `idle` and `sink` for runs of that kind.
    pub direction: String,
    /// Length of inner packets in bytes, or `imix`.
    pub size: String,
    /// Packets that the generator hands over as one; 1 without UDP_SEGMENT.
    pub train: u16,
    /// Packets a second and direction that were asked for; `None`: as fast as there was room.
    pub rate: Option<f64>,
    /// Seconds measured.
    pub seconds: f64,
    /// When that began, in seconds of the monotonic clock: for whoever keeps accounts of the server beside it. Nothing is
    /// under way a quarter of a second before and after.
    pub measured_from: f64,
    /// When it ended.
    pub measured_until: f64,
    /// Seconds until all peers were in.
    pub login_seconds: f64,
    /// From the peers to the LAN.
    pub up: Option<DirectionReport>,
    /// From the LAN to the peers.
    pub down: Option<DirectionReport>,
    /// Sealed before the measured time, where peers send.
    pub bank: Option<BankReport>,
    /// Sessions that ended by themselves, by reason.
    pub sessions_ended: BTreeMap<String, u64>,
    /// CPU seconds of each thread of the generator, the measured time alone; when idle, of `all` together.
    pub cpu_s: BTreeMap<String, f64>,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DirectionReport {
    /// Packets sent.
    pub offered_packets: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Packets sent a second.
    pub offered_pps: f64,
    /// Of the packets sent, those that arrived, also after the measured time.
    pub delivered_packets: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets that arrived a second.
    pub pps: f64,
    /// Bits that arrived, in 10⁹ a second.
    pub gbit_per_s: f64,
    /// Packets sent that never arrived.
    pub lost_packets: u64,
    /// The same, in percent of those sent.
    pub loss_percent: f64,
    /// Packets that arrived after a later one of their stream (up) or peer (down).
    pub reordered: u64,
    /// Packets that one read of the receiver brought, on average.
    pub packets_per_read: f64,
    /// Peers of whose packets at least one arrived.
    pub peers_heard: usize,
    /// Loss of the peer that lost most, in percent.
    pub worst_peer_loss_percent: f64,
    /// Datagrams that found the generator's own receiving sockets full: losses that are not the gateway's.
    pub socket_drops: u64,
    /// Down only: packet ids that the gateway has used and that did not arrive, as far as a later one of that peer did.
    pub id_gaps: Option<u64>,
    /// Down only: packets that were opened in full and compared.
    pub opened_samples: Option<u64>,
    /// Of them, those that were not as they should be.
    pub bad_samples: Option<u64>,
    /// Datagrams that belonged to nobody.
    pub strays: u64,
    /// Packets that the system refused to send, over the whole run, and the last reason.
    pub refused: u64,
    /// The last reason for that.
    pub refusal: Option<String>,
    /// Times that the sender waited for room in a socket, over the whole run.
    pub waits: u64,
    /// One-way latency under this load.
    pub latency: Option<Latency>,
}

/// One-way latency of probes, from the sender's clock to the receiver's kernel; microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
    /// 999 of a thousand.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
    /// Probes sent.
    pub sent: u64,
    /// Probes that never arrived.
    pub lost: u64,
}

/// What was sealed before the clock ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct BankReport {
    /// Packets.
    pub packets: u64,
    /// Their bytes in MiB.
    pub mib: f64,
    /// Seconds that sealing took.
    pub seal_seconds: f64,
    /// It came to an end before the time that was asked for; `seconds` is the time until then.
    pub ran_out: bool,
}

impl DirectionReport {
    /// From both ends' counts of `time`.
    #[must_use]
    pub fn new(offered: &Offered, arrived: &Arrived, time: Duration) -> Self {
        let per_second = |amount: u64| ratio(amount as f64, time.as_secs_f64());
        let lost = offered.packets.saturating_sub(arrived.all.packets);
        let worst = offered
            .by_peer
            .iter()
            .zip(&arrived.by_peer)
            .map(|(sent, came)| ratio(100.0 * sent.saturating_sub(*came) as f64, *sent as f64));
        Self {
            offered_packets: offered.packets,
            offered_bytes: offered.bytes,
            offered_pps: per_second(offered.packets),
            delivered_packets: arrived.all.packets,
            delivered_bytes: arrived.all.bytes,
            pps: per_second(arrived.window.packets),
            gbit_per_s: per_second(arrived.window.bytes) * 8.0 / 1e9,
            lost_packets: lost,
            loss_percent: ratio(100.0 * lost as f64, offered.packets as f64),
            reordered: arrived.reordered,
            packets_per_read: arrived.all.per_batch(),
            peers_heard: arrived.by_peer.iter().filter(|count| **count > 0).count(),
            worst_peer_loss_percent: worst.fold(0.0, f64::max),
            socket_drops: arrived.drops,
            id_gaps: None,
            opened_samples: None,
            bad_samples: None,
            strays: arrived.strays,
            refused: offered.refused,
            refusal: offered.refusal.clone(),
            waits: offered.waits,
            latency: None,
        }
    }
}

impl Latency {
    /// Of the probes that `sender` sent and `receiver` received.
    #[must_use]
    pub fn new(sender: &Probed, receiver: &Probed) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile| us(receiver.times.value_at_quantile(quantile));
        Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(receiver.times.max()),
            sent: sender.sent,
            lost: sender.sent.saturating_sub(receiver.received),
        }
    }
}

fn ratio(amount: f64, by: f64) -> f64 {
    if by > 0.0 { amount / by } else { 0.0 }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} peers, {}, ", self.peers, self.direction)?;
        if self.up.is_some() || self.down.is_some() {
            write!(f, "{} bytes, trains of {}, ", self.size, self.train)?;
        }
        write!(f, "{:.2} s measured; logins took {:.2} s", self.seconds, self.login_seconds)?;
        writeln!(f)?;
        for (name, report) in [("up", &self.up), ("down", &self.down)] {
            if let Some(report) = report {
                direction(f, name, report)?;
            }
        }
        if let Some(bank) = &self.bank {
            writeln!(
                f,
                "bank: {} packets, {:.0} MiB, sealed in {:.2} s",
                bank.packets, bank.mib, bank.seal_seconds
            )?;
            if bank.ran_out {
                writeln!(f, "the bank ran out: the time measured ends there (--bank-mib sets more)")?;
            }
        }
        for (why, count) in &self.sessions_ended {
            writeln!(f, "{count} sessions ended: {why}")?;
        }
        f.write_str("CPU of this program in that time:")?;
        for (thread, seconds) in &self.cpu_s {
            write!(f, " {thread} {seconds:.2} s")?;
        }
        Ok(())
    }
}

fn direction(f: &mut fmt::Formatter<'_>, name: &str, report: &DirectionReport) -> fmt::Result {
    writeln!(
        f,
        "{name}: {:.0} packets/s, {:.3} Gbit/s; offered {:.0} packets/s, lost {} of {} ({:.3} %)",
        report.pps,
        report.gbit_per_s,
        report.offered_pps,
        report.lost_packets,
        report.offered_packets,
        report.loss_percent
    )?;
    writeln!(
        f,
        "  {:.1} packets a read, {} reordered, {} peers heard, worst peer lost {:.3} %",
        report.packets_per_read, report.reordered, report.peers_heard, report.worst_peer_loss_percent
    )?;
    if let (Some(gaps), Some(opened), Some(bad)) = (report.id_gaps, report.opened_samples, report.bad_samples)
    {
        writeln!(f, "  {gaps} gaps in packet ids; {opened} packets opened, {bad} of them wrong")?;
    }
    let notes = [
        (report.socket_drops, "dropped at this program's own full sockets"),
        (report.strays, "datagrams that belong to nobody"),
        (report.refused, "packets that the system refused"),
        (report.waits, "waits for room in a socket"),
    ];
    for (count, what) in notes.iter().filter(|(count, _)| *count > 0) {
        writeln!(f, "  {count} {what}")?;
    }
    if let Some(why) = &report.refusal {
        writeln!(f, "  refused last with: {why}")?;
    }
    if let Some(l) = &report.latency {
        writeln!(
            f,
            "  latency: p50 {:.0} µs, p90 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs; {} of {} probes lost",
            l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us, l.lost, l.sent
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::count::Totals;
    use super::*;

    fn reported() -> DirectionReport {
        let offered =
            Offered { packets: 1000, bytes: 1_400_000, by_peer: vec![600, 400], ..Offered::default() };
        let arrived = Arrived {
            window: Totals { packets: 880, bytes: 1_232_000, batches: 20 },
            all: Totals { packets: 900, bytes: 1_260_000, batches: 30 },
            by_peer: vec![600, 300],
            ..Arrived::default()
        };
        DirectionReport::new(&offered, &arrived, Duration::from_secs(2))
    }

    #[test]
    fn rates_are_of_the_window_and_losses_of_what_was_sent_in_it() {
        let report = reported();
        assert!((report.pps - 440.0).abs() < 1e-9 && (report.offered_pps - 500.0).abs() < 1e-9);
        assert!((report.gbit_per_s - 1_232_000.0 * 8.0 / 2e9).abs() < 1e-12);
        assert_eq!(report.lost_packets, 100);
        assert!((report.loss_percent - 10.0).abs() < 1e-9);
        assert!((report.worst_peer_loss_percent - 25.0).abs() < 1e-9);
        assert_eq!(report.peers_heard, 2);
        assert!((report.packets_per_read - 30.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_sent_is_no_fault() {
        let report = DirectionReport::new(&Offered::default(), &Arrived::default(), Duration::ZERO);
        assert!(report.pps.abs() < 1e-9 && report.loss_percent.abs() < 1e-9);
    }

    #[test]
    fn text_and_json_say_it() {
        let report = DataReport {
            peers: 2,
            direction: "up".into(),
            size: "1400".into(),
            up: Some(DirectionReport { latency: Some(Latency::default()), ..reported() }),
            bank: Some(BankReport { ran_out: true, ..BankReport::default() }),
            ..DataReport::default()
        };
        let text = report.to_string();
        for part in ["440 packets/s", "lost 100 of 1000 (10.000 %)", "the bank ran out", "p99.9"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["up"]["lost_packets"], 100);
        assert!(json["down"].is_null());
    }
}
