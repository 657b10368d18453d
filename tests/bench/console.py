"""What the console costs, and how quickly it answers, in a real (pseudo-)terminal.

    python tests/bench/console.py [start] [launch] [cost] [keys] [bytes] [idle] [--rounds N]
        [--preset P --data-root D --teacher F]

start: seconds from the command to the first screen. launch: from F5 on the New page to the first stage of
the run, once torch is loaded and as soon as the page is there. cost: iterations a second of the same
recovery under the console and headless, alternating. keys: from a key to what it shows, while a recovery
runs: help, the palette, the form. bytes: to the terminal at 120×40 while a recovery is watched, and while
nothing changes. idle: processor time on a finished run.
"""

from __future__ import annotations

import argparse
import atexit
import fcntl
import json
import os
import pty
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ITERATIONS = 3000
KEYS = {"help": ("?", "Enter: run"), "palette": ("\x10", "Enter: run"), "new": ("n", "Cost on this")}
SETTLE = 15.0  # seconds until a console has loaded everything and drawn its page


class Screen:
    """A program in a pseudo-terminal, and all that it sent."""

    def __init__(self, words: list[str], folder: Path, size: tuple[int, int]) -> None:
        self.sent = bytearray()
        self.began = time.perf_counter()
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(environment(folder))
            os.execv(sys.executable, [sys.executable, "-P", "-c", ENTRY, *words])
        atexit.register(self.close)  # else its run would be handed over to a process that outlives the bench
        columns, lines = size
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError):
            while part := os.read(self.handle, 65536):
                self.sent += part

    def press(self, keys: str) -> None:
        os.write(self.handle, keys.encode())

    def until(self, text: str, seconds: float = 120.0, after: int = 0) -> float:
        """When the text was sent, in seconds since the start."""
        deadline = time.perf_counter() + seconds
        while text.encode() not in self.sent[after:]:
            if time.perf_counter() > deadline:
                raise SystemExit(f"{text!r} never came:\n{bytes(self.sent[-3000:])!r}")
            time.sleep(0.001)
        return time.perf_counter() - self.began

    def processor(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        atexit.unregister(self.close)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)


ENTRY = (
    "import sys; from cfm_tui.cli import console, console_app, main; "
    "main(program=console_app, name='cfm-tui') if sys.argv[1:2] != ['attach'] else main()"
)


def environment(folder: Path) -> dict[str, str]:
    names = {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    return names | {"CFM_RUNS": str(folder / "runs"), "CFM_CACHE": str(folder / "cache")}


def begun(folder: Path, name: str, options: argparse.Namespace) -> Path:
    """A run that is ready to recover: its teacher and statistics are in the cache."""
    from engine.config import settings
    from engine.runs import launch

    sets = [f"recover.iterations={ITERATIONS}", "validate.epochs=1", "validate.seeds=1", "squeeze.epochs=1"]
    given = {"data.root": options.data_root, "backbone.teacher": options.teacher}
    resolved = settings.resolve(preset=options.preset, sets=[*sets, *options.set], overrides=given)
    where = folder / "runs" / name
    launch.prepare_run(resolved, where, name)[1].release()
    return where


def rate(run: Path) -> float:
    """Iterations a second between the first and the last numbers of a recovery."""
    told = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    chunks = [each for each in told if each["kind"] == "RecoverProgress"]
    first, last = chunks[len(chunks) // 5], chunks[-1]
    return (last["payload"]["rows"][1] - first["payload"]["rows"][1]) / (last["time"] - first["time"])


def recovered(run: Path) -> bool:
    return '"kind":"BatchRecovered"' in (run / "journal.jsonl").read_text()


def launched(folder: Path, size: tuple[int, int] = (120, 40)) -> Screen:
    """A console that goes on with the newest run, its monitor on screen."""
    screen = Screen([], folder, size)
    screen.until("newest first")
    time.sleep(1)
    screen.press("o")
    screen.until("Resume ")
    screen.press("h")
    return screen


def measure_start(folder: Path, options: argparse.Namespace) -> None:
    taken = []
    for _ in range(options.rounds):
        screen = Screen([], folder, (80, 24))
        taken.append(screen.until("Runs"))
        screen.close()
    print(f"start: {statistics.median(taken):.2f} s to the first screen (median of {len(taken)}; {taken})")


def measure_launch(folder: Path, options: argparse.Namespace) -> None:
    for name, settled in (("torch loaded", SETTLE), ("at once", 0.0)):
        taken = []
        for _ in range(options.rounds):
            screen = Screen(["--preset", "digits", "--set", "recover.iterations=3000"], folder, (120, 40))
            screen.until("F5")
            time.sleep(settled)
            since, at = time.perf_counter() - screen.began, len(screen.sent)
            screen.press("\x1b[15~")
            taken.append(screen.until("RUNNING", after=at) - since)
            screen.close()
        print(f"launch, {name}: {statistics.median(taken):.2f} s (median of {len(taken)}; {taken})")


def measure_cost(folder: Path, options: argparse.Namespace) -> None:
    shares = []
    for number in range(options.rounds):
        found = {}
        for kind in ("headless", "console") if number % 2 else ("console", "headless"):
            run = begun(folder, f"{kind}{number}", options)
            if kind == "headless":
                words = [sys.executable, "-m", "cfm_tui", "resume", str(run), "-q"]
                process = subprocess.Popen(words, env=os.environ | environment(folder))
                stop = process.kill
            else:
                stop = launched(folder).close
            while not recovered(run):
                time.sleep(0.5)
            stop()
            found[kind] = rate(run)
            time.sleep(1)
        shares.append(found["console"] / found["headless"])
        print(
            f"  {found['console']:.1f} it/s under the console, {found['headless']:.1f} headless", flush=True
        )
    print(f"cost: {100 * statistics.median(shares):.1f} % of headless (median of {len(shares)})")


def measure_keys(folder: Path, options: argparse.Namespace) -> None:
    options.set.append(f"recover.iterations={100 * ITERATIONS}")
    begun(folder, "keys", options)
    screen = launched(folder)
    time.sleep(SETTLE)
    for name, (key, text) in KEYS.items():
        taken = []
        for _ in range(options.presses):
            at, since = len(screen.sent), time.perf_counter()
            screen.press(key)
            screen.until(text, 30, at)
            taken.append(1000 * (time.perf_counter() - since))
            time.sleep(0.3)
            screen.press("\x1b")
            time.sleep(0.7)
        taken.sort()
        median, late = statistics.median(taken), taken[int(0.95 * len(taken))]
        print(f"{name}: {median:.0f} ms median, {late:.0f} ms at the 95th percentile of {len(taken)}")
    screen.close()


def measure_bytes(folder: Path, options: argparse.Namespace) -> None:
    options.set.append(f"recover.iterations={100 * ITERATIONS}")
    begun(folder, "bytes", options)
    screen = launched(folder)
    time.sleep(2 * SETTLE)
    at = len(screen.sent)
    time.sleep(60)
    print(f"bytes: {(len(screen.sent) - at) / 60 / 1000:.2f} kB/s over a minute of a recovery at 120×40")
    screen.close()


def measure_idle(folder: Path, options: argparse.Namespace) -> None:
    words = [sys.executable, "-m", "cfm_tui", "run", "--preset", "smoke", "-q", "--out", "runs/finished"]
    subprocess.run(
        words, cwd=folder, env=os.environ | environment(folder), check=True, stdout=subprocess.DEVNULL
    )
    screen = Screen(["attach", "finished"], folder, (120, 40))
    before = -1.0
    while screen.processor() - before > 0.2:  # what a launch needs is loaded behind the first screen
        before = screen.processor()
        time.sleep(SETTLE)
    at, used = len(screen.sent), screen.processor()
    time.sleep(60)
    share = (screen.processor() - used) / 60
    print(
        f"idle: {100 * share:.2f} % of a core, {len(screen.sent) - at} bytes in a minute, on a finished run"
    )
    screen.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = {"start": measure_start, "launch": measure_launch, "cost": measure_cost, "keys": measure_keys}
    known |= {"bytes": measure_bytes, "idle": measure_idle}
    parser.add_argument("what", nargs="*", default=list(known), metavar="WHAT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["CFM_CACHE"] = f"{folder}/cache"
            known[what](Path(folder), options)


if __name__ == "__main__":
    main()
