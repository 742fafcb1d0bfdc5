"""What both benchmarks need: builds, CPU accounts, the machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab import BenchError, command

ROOT = Path(__file__).resolve().parent.parent.parent
TICK = os.sysconf("SC_CLK_TCK")
STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq")
# A build from nothing: far above what it takes.
BUILD_S = 1800


def say(text):
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def build(program):
    """Builds one of ours (release), and says where it is."""
    say(f"building {program} (release) …")
    built = subprocess.run(["cargo", "build", "--release", "-p", program], cwd=ROOT, timeout=BUILD_S, check=False)
    if built.returncode != 0:
        raise BenchError(f"{program} does not build")
    target = json.loads(command("cargo", "metadata", "--format-version", "1", "--no-deps", cwd=ROOT))["target_directory"]
    return Path(target) / "release" / program


def cpu_of(pid):
    """CPU seconds of a process, all threads, living and dead."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_of_cores():
    """Seconds by kind for each core."""
    cores = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu":
            cores[int(name[3:])] = dict(zip(STAT_FIELDS, (int(value) / TICK for value in values)))
    return cores


def machine(binary, workers):
    """What was measured on what."""
    cpu = next(line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
               if line.startswith("model name"))
    version = command(str(binary), "--version").strip()
    commit = command("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10").strip()
    # openvpn prints its version and ends with 1.
    openvpn = subprocess.run(["openvpn", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    cores = os.cpu_count()
    return {
        "kernel": os.uname().release,
        "cpu": cpu,
        "cores": cores,
        "tessera": f"{version} ({commit})",
        # Of the very file that was measured: the commit above is only that of the sources beside the bench.
        "tessera_sha256": hashlib.sha256(Path(binary).read_bytes()).hexdigest(),
        "openvpn": ", ".join(line.split(" [")[0].split(", LZO")[0] for line in openvpn.splitlines()[:2]),
        "workers": f"tesserad {workers} here (its default is auto: one for each core it may use, {cores} on this machine), "
                   "openvpn 1 thread for everything",
    }


def stopped(number, _frame):
    """A signal ends the bench by its error, so that it tidies up."""
    raise BenchError("took too long" if number == signal.SIGALRM else f"stopped by {signal.Signals(number).name}")
