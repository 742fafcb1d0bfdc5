"""`--profile`: where the gateway's time goes during a figure, by perf."""

import collections
import re
import subprocess
import time
from pathlib import Path

from lab import BenchError, command

FREQUENCY = 999
TOP = 30
# perf ends by itself with what it watches for; beyond that it has hung.
PATIENCE_S = 60
FRAME = re.compile(r"^\s+[0-9a-f]+ (.+?)(?: \((.*)\))?$")


class Profile:
    """perf record of one process, from opening to `write`."""

    def __init__(self, folder, pid, seconds):
        self.data = Path(folder) / "perf.data"
        self.perf = subprocess.Popen(
            ["perf", "record", "-q", "-g", "-F", str(FREQUENCY), "-p", str(pid), "-o", str(self.data),
             "--", "sleep", str(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.2)

    def write(self, target, title):
        """Waits for its end, and writes the summary: symbols by their own time, then whole stacks, folded."""
        try:
            _, said = self.perf.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            self.perf.kill()
            self.perf.wait()
            raise BenchError("perf has not ended") from error
        if not self.data.exists():
            raise BenchError(f"perf recorded nothing: {said}")
        script = command("perf", "script", "-i", str(self.data), "-F", "comm,ip,sym,dso", timeout=PATIENCE_S * 5)
        stacks = fold(script)
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


def fold(script):
    """perf's samples as `thread;outermost;…;innermost` with their counts."""
    stacks = collections.Counter()
    thread, frames = None, []
    for line in [*script.splitlines(), ""]:
        if not line.strip():
            if thread is not None and frames:
                stacks[";".join([thread, *reversed(frames)])] += 1
            thread, frames = None, []
        elif thread is None:
            thread = line.strip().rstrip(":")
        else:
            match = FRAME.match(line)
            if match:
                symbol = match[1] if match[1] != "[unknown]" else f"[{Path(match[2] or 'unknown').name}]"
                frames.append(symbol.replace(";", ","))
    return stacks
