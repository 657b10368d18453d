"""Measure what a GPU shows of this program: correctness first, then waits, speed and a whole job.

    PYTHONPATH=. python tests/gpu/check.py [--device cuda|cpu] [--quick] [--only SECTION]...
        [--data-root DIR] [--teacher FILE] [--out FILE.json]

It runs from a checkout and needs what the engine needs. Sections run one after another, the most valuable
first, and each ends at its own time limit with the rows that it has; one that fails leaves a row that says
so. Rows are printed as Markdown as soon as they are there. --quick takes small sizes, for a machine without a
GPU. The exit code is 1 where a section failed or a row misses its aim. docs/gpu.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "bench"))

import correctness
import job
import speed
import torch
from harness import Options, Row, Section, finite, run_section

from engine import device as devices

SECTIONS = [
    Section("correct", 70, correctness.first_steps),
    Section("resume", 30, correctness.check_resume),
    Section("waits", 30, speed.waits),
    Section("recovery speed", 80, speed.recovery_speed),
    Section("filters", 25, speed.filters),
    Section("profile", 45, speed.profile),
    Section("students", 35, speed.students),
    Section("students together", 30, speed.stacked_students),
    Section("statistics, squeeze, evaluation", 45, speed.passes),
    Section("whole job", 220, job.whole),
]
WHOLE = 420.0  #: seconds, at most, of all sections together


def machine(options: Options) -> Row:
    """Describe card, driver, software and commit."""
    facts: Row = {"device": str(options.device), "cpus": torch.get_num_threads()}
    if options.cuda:
        facts["card"] = torch.cuda.get_device_name(options.device)
        facts["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    facts |= {"torch": torch.__version__, "python": platform.python_version()}
    facts["commit"] = _output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return facts


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, fewer steps")
    parser.add_argument("--only", action="append", metavar="SECTION", help="this section; may be repeated")
    parser.add_argument("--data-root", type=Path, help="folder that holds cifar10/, for the whole job")
    parser.add_argument("--teacher", type=Path, help="a ConvNet-128 checkpoint for CIFAR-10, likewise")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    return parser.parse_args(given)


def main() -> int:
    given = arguments()
    options = Options(devices.choose(given.device), given.quick, given.data_root, given.teacher)
    names = [section.name for section in SECTIONS]
    unknown = set(given.only or ()) - set(names)
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    facts, began, outcomes = machine(options), time.perf_counter(), []
    print("# GPU check\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items()), flush=True)
    for section in SECTIONS:
        left = WHOLE - (time.perf_counter() - began)
        if not given.only or section.name in given.only:
            limit = section.seconds if options.cuda else 3 * section.seconds
            outcomes.append(run_section(section, options, min(limit, left)))
            document = {**facts, "quick": given.quick, "seconds": time.perf_counter() - began}
            document["sections"] = [{**vars(each), "rows": list(map(finite, each.rows))} for each in outcomes]
            if given.out is not None:  # after every section: what is measured is kept, whatever comes
                given.out.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    missed = [row for outcome in outcomes for row in outcome.rows if row.get("ok") is False]
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    print(f"\n{len(missed)} rows miss their aim; failed: {', '.join(failed) or 'none'}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
