"""A folder of runs in many states, with settings and results, for pages that list or compare them."""

from __future__ import annotations

from pathlib import Path

import swept
from images_run import with_images
from monitored import BETAS, MOMENT, elsewhere, made, recovering, validating
from recorded import opened, record_recovery

from engine import events
from engine.runs.results import build_document
from engine.store.json_file import read_json, write_json
from engine.store.lock import timestamp

CONFIG = """seed: 0
ipc: {ipc}
data:
  name: {data}
backbone:
  name: {network}
objective:
  method: {method}
  beta: {beta}
recover:
  iterations: {iterations}
validate:
  epochs: 300
  seeds: 1
"""
DEFAULTS = {
    "ipc": 10,
    "data": "cifar10",
    "network": "convnet",
    "method": "cfm",
    "beta": 0.1,
    "iterations": 1000,
}


def text(**changed) -> str:
    """The settings of a run."""
    return CONFIG.format(**{**DEFAULTS, **changed})


def repeated(name: str, distilled, control, seeds=(0, 1, 2), planned=3) -> dict:
    """Results with an accuracy of distilled images and of the control for each repeat."""
    spent = {"seconds": 61.0, "rate": 2.0, "unit": "epochs", "reused": False}
    entries = []
    for seed, *accuracies in zip(seeds, distilled, control, strict=True):
        students = [
            {"architecture": "convnet", "seed": seed, "source": source, "last": last, "best": last + 1}
            | {"curve": [[2, last]], "weights": "0" * 64}
            for source, last in zip(("distilled", "random"), accuracies, strict=True)
        ]
        timings = {stage: dict(spent) for stage in events.STAGES}
        teacher = {"architecture": "convnet", "accuracy": 72.8}
        provenance = {"data": {"fingerprint": "d" * 64}, "measured_on": {"images": 100, "split": "test"}}
        entries.append(
            {"seed": seed, "students": students, "teacher": teacher}
            | {"timings": timings, "provenance": provenance}
        )
    return build_document(name, entries, planned, ["images"])


def finished(folder: Path, distilled, control, text: str) -> None:
    """A finished run with repeats, two students whose accuracy rises, and images."""
    run, _ = with_images(folder, text=text)
    record_recovery(run)
    for source, values in (("distilled", distilled), ("random", control)):
        for epoch in range(1, 11):
            value = values[0] * (1 - 0.6**epoch)
            run.record(events.EpochFinished("validate", "convnet", source, 0, epoch, 10, 1 / epoch, value))
    run.save_results(repeated(folder.name, distilled, control))
    run.close("finished")


def make_runs(place: Path) -> Path:
    """Runs in nine states, each created an hour after the one before."""
    place.mkdir()
    finished(place / "cifar10-cfm", (55.0, 55.4, 56.1), (50.6, 51.3, 51.5), text())
    finished(place / "cifar10-sre2l", (48.1, 47.2, 48.4), (50.6, 51.3, 51.5), text(method="sre2l"))
    finished(
        place / "cifar10-cfm-resnet18-0.5", (51.0, 52.4, 50.1), (50.6, 51.3, 51.5),
        text(network="resnet18", beta=0.5),
    )  # fmt: skip
    facts = {"stage": "recover", "done": 640, "total": 1000, "rate": 47.7, "seconds_left": 1122.0}
    made(place / "cifar10-live", recovering, beta=BETAS[2], **facts)
    facts = {"stage": "validate", "done": 3, "total": 12, "accuracy": 61.2, "seconds_left": 90.0}
    made(place / "digits-paused", validating, "paused", **facts)
    for name, state in (("broken", "failed"), ("ended", "stopped"), ("gone", "lost")):
        run = opened(place / name, text=text(data="digits", ipc=1))
        record_recovery(run)
        run.close("stopped" if state == "lost" else state, "no room on the disk" * (state == "failed"))
    status = place / "gone" / "status.json"
    write_json(status, {**read_json(status), "state": "running", "stage": "recover", "pid": 2**22 + 1})
    opened(place / "torn").close("stopped")
    (place / "torn" / "config.yaml").write_text("seed: 9\n")
    for hour, folder in enumerate(sorted(place.iterdir())):
        path = folder / "manifest.json"
        write_json(path, {**read_json(path), "created": timestamp(MOMENT - 3600 * (hour + 1))})
    for name in ("cifar10-live", "digits-paused"):
        elsewhere(place / name)
    return place


SWEEP = {"preset": "smoke", "grid": {"objective": ["cfm", "hfm", "lfm"], "ipc": [1, 10], "seed": [0, 1]}}


def make_sweep(place: Path):
    """A sweep of three rows, two columns and two seeds: finished, active, failed and waiting points."""
    stored = swept.made(place, SWEEP, {})
    for record in stored.manifest()["points"]:
        folder, row, seed = place / record["name"], record["row"], record["config"]["seed"]
        if "ipc=10" in record["column"] and row == "lfm":
            continue
        if row == "lfm" and seed == 0:
            folder.mkdir()
            (folder / "log.txt").write_text("no such teacher\n")
        elif row == "hfm" and seed == 1 and "ipc=10" in record["column"]:
            facts = {"stage": "recover", "done": 640, "total": 1000, "rate": 47.7}
            made(folder, recovering, beta=BETAS[2], **facts)
        elif row == "hfm" and "ipc=10" in record["column"]:
            opened(folder).close("failed", "no room on the disk")
        elif row != "lfm":
            run = opened(folder, text=text())
            run.save_results(repeated(record["name"], (50.0 + 2 * seed,), (40.0,), seeds=(seed,), planned=1))
            run.close("finished")
    return stored
