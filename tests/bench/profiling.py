"""`--profile`: where the gateway's time goes during a figure, by perf."""

import collections
import math
import re
import signal
import subprocess
import time
from pathlib import Path

from lab import BenchError, command

FREQUENCY = 999
TOP = 30
# To write what it has recorded; beyond that it has hung.
PATIENCE_S = 60
FRAME = re.compile(r"^\s+[0-9a-f]+ (.+?)(?: \((.*)\))?$")


class Profile:
    """perf record of one process, from opening to `write`."""

    def __init__(self, folder, pid):
        self.data = Path(folder) / "perf.data"
        self.perf = subprocess.Popen(
            ["perf", "record", "-q", "-g", "-k", "CLOCK_MONOTONIC", "-F", str(FREQUENCY), "-p", str(pid), "-o", str(self.data)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.2)

    def write(self, target, title, window=()):
        """Ends it, and writes the summary: symbols by their own time, then whole stacks, folded. `window` is from when to when
        samples count, in seconds of the monotonic clock; all do without one."""
        try:
            self.perf.send_signal(signal.SIGINT)
            _, said = self.perf.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            self.perf.kill()
            self.perf.wait()
            raise BenchError("perf has not ended") from error
        if not self.data.exists():
            raise BenchError(f"perf recorded nothing: {said}")
        script = command("perf", "script", "-i", str(self.data), "-F", "comm,time,ip,sym,dso",
                         timeout=PATIENCE_S * 5)
        stacks = fold(script, *window)
        total = sum(stacks.values())
        if total == 0:
            raise BenchError(f"perf saw no sample of the gateway: {said}")
        own = collections.Counter()
        for stack, count in stacks.items():
            own[stack.rsplit(";", 1)[-1]] += count
        lines = [f"# {title}: {total} samples at {FREQUENCY} Hz", f"# {TOP} symbols by self time"]
        lines += [f"{100 * count / total:6.2f} %  {symbol}" for symbol, count in own.most_common(TOP)]
        lines += ["# folded stacks"]
        lines += [f"{stack} {count}" for stack, count in stacks.most_common()]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n")
        self.data.unlink()


def fold(script, start=0.0, end=math.inf):
    """perf's samples of that time as `thread;outermost;…;innermost` with their counts."""
    stacks = collections.Counter()
    thread, at, frames = None, 0.0, []
    for line in [*script.splitlines(), ""]:
        if not line.strip():
            if thread is not None and frames and start <= at <= end:
                stacks[";".join([thread, *reversed(frames)])] += 1
            thread, frames = None, []
        elif thread is None:
            thread, at = line.strip().rstrip(":").rsplit(None, 1)
            at = float(at)
        else:
            match = FRAME.match(line)
            if match:
                symbol = match[1] if match[1] != "[unknown]" else f"[{Path(match[2] or 'unknown').name}]"
                frames.append(symbol.replace(";", ","))
    return stacks
