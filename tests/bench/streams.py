"""One TCP stream by iperf3 through whatever gateway there is, with what it cost."""

import json

import metrics
from accounts import Account, per_gb
from lab import LAN_HOST, BenchError

# Beyond the time of the transfer itself.
PATIENCE_S = 30


def transfer(lab, pid, way, seconds, congestion, ask=lambda: None):
    """Client to LAN host ("up") or back ("down"); `pid` is the gateway's process, or nothing; `ask` gives its metrics, or
    nothing."""
    earlier, packets, account = metrics.read(ask()), tunnel_packets(lab), Account(lab, pid)
    output = lab.inside(lab.client, "iperf3", "-J", "-c", LAN_HOST, "-C", congestion, "-t", str(seconds),
                        *(["-R"] if way == "down" else []), timeout=seconds + PATIENCE_S)
    spent = account.close()
    packets = tunnel_packets(lab) - packets
    end = json.loads(output)["end"]
    received, sent = end["sum_received"], end["sum_sent"]
    if end["sender_tcp_congestion"] != congestion:
        raise BenchError(f"the sender used {end['sender_tcp_congestion']}, not {congestion}")
    gb = received["bytes"] / 1e9
    if gb <= 0:
        raise BenchError(f"iperf3 moved nothing:\n{output}")
    return {
        "gb": gb,
        "gbit_per_s": received["bits_per_second"] / 1e9,
        "retransmits": sent["retransmits"],
        "outer_packets": packets,
        "outer_bytes_per_packet": 1e9 * gb / packets,
        "gateway_core_percent": 100 * spent["gateway_core_busy_s"] / spent["elapsed_s"],
        "generator_core_percent": 100 * spent["other_core_busy_s"] / spent["elapsed_s"],
        **per_gb(spent, gb),
        **spent,
        "said": metrics.between(earlier, metrics.read(ask())),
    }


def tunnel_packets(lab):
    """Packets of the gateway's outer device, either way; one that the kernel has not cut yet counts once."""
    link = json.loads(lab.inside(lab.gateway, "ip", "-j", "-s", "link", "show", "wan0"))[0]["stats64"]
    return link["rx"]["packets"] + link["tx"]["packets"]
