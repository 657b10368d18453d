"""Runs on disks of so many KiB, mounted in memory: `small_disk.py FOLDER KIB…`, one line of JSON each.

To be started in a mount namespace of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from cut import amiss, lost, pulled, taken_up
from test_full_disk import wrongly_stopped

from engine import store
from engine.store import lock

ENOUGH = 8192  # KiB


def mounted(place: Path, kib: int, *options: str) -> None:
    """Mount a disk, or give one that is there another size."""
    what = ",".join([f"size={kib}k", *options])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", what, "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"cannot mount: {done.stderr.strip()}")


def tried(place: Path, kib: int, outcome: dict[str, str], patch: pytest.MonkeyPatch) -> dict[str, object]:
    """One run that finds so much room, taken up when there is more."""
    mounted(place, kib)
    told = pulled(place)
    why = "" if told.error is None else wrongly_stopped(told)
    mounted(place, ENOUGH, "remount")
    again, used = taken_up(patch, place)
    why = why or amiss(place, again, outcome) or lost(told, again, used)
    if told.error is None:
        why = why or "; ".join(store.verify_run(place / "run"))
    subprocess.run(["umount", str(place)], check=True)
    return {"kib": kib, "stopped": told.error is not None, "why": why}


def main() -> None:
    """Try every size."""
    lock.Heartbeat.THREAD = False
    folder, *sizes = sys.argv[1:]
    whole, place = Path(folder) / "whole", Path(folder) / "small"
    whole.mkdir()
    place.mkdir()
    assert pulled(whole).error is None
    outcome = tiny.outcome(whole)
    with pytest.MonkeyPatch.context() as patch:
        for kib in sizes:
            print(json.dumps(tried(place, int(kib), outcome, patch)), flush=True)


if __name__ == "__main__":
    main()
