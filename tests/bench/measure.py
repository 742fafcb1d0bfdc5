"""What both benchmarks need: builds, CPU accounts, the machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab import BenchError, Stopped, command

ROOT = Path(__file__).resolve().parent.parent.parent
TICK = os.sysconf("SC_CLK_TCK")
STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq")
# A build from nothing: far above what it takes.
BUILD_S = 1800


def say(text):
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def build(program, example=None):
    """Builds one of ours (release), or an example of it, and says where it is."""
    what = ["-p", program] + (["--example", example] if example else [])
    say(f"building {' '.join(what)} (release) …")
    built = subprocess.run(["cargo", "build", "--release", *what], cwd=ROOT, timeout=BUILD_S, check=False)
    if built.returncode != 0:
        raise BenchError(f"{example or program} does not build")
    target = json.loads(command("cargo", "metadata", "--format-version", "1", "--no-deps", cwd=ROOT))["target_directory"]
    return Path(target) / "release" / (f"examples/{example}" if example else program)


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


def threads_of(pid):
    """Nanoseconds on a processor of each living thread, by (id, name)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name), (task / "comm").read_text().strip()] = int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass  # it has just ended
    return found


def resident(pid):
    """Resident memory of a process, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def of_tessera(binary):
    """Version, commit of the sources beside the bench, and sha256 of the very file that was measured."""
    version = command(str(binary), "--version").strip()
    commit = command("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10").strip()
    return f"{version} ({commit})", hashlib.sha256(Path(binary).read_bytes()).hexdigest()


def of_openvpn(program="openvpn"):
    """Its version and its library's. It prints them and ends with 1."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    return ", ".join(line.split(" [")[0].split(", LZO")[0] for line in said.splitlines()[:2])


def machine():
    """What was measured on."""
    cpu = next(line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
               if line.startswith("model name"))
    return {"kernel": os.uname().release, "cpu": cpu, "cores": os.cpu_count()}


def stopped(number, _frame):
    """A signal ends the bench by its error, so that it tidies up."""
    raise Stopped("took too long" if number == signal.SIGALRM else f"stopped by {signal.Signals(number).name}")
