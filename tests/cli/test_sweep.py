"""`cfm sweep` as a person starts it: runs, goes on, stops, is killed, and tells what came of it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from bar import cases
from commandline import REPOSITORY, call, call_json, check
from processes import Nursery, until
from swept import TINY, computed, file, outcome, times

from engine.store import StoredRun

NAMES = [f"objective={name}" for name in ("cfm", "hfm", "lfm")]


def own(place):
    return {"CFM_RUNS": str(place / "runs"), "CFM_CACHE": str(place / "cache")}


@pytest.fixture
def here(monkeypatch, tmp_path):
    for name, value in {**own(tmp_path), "PYTHONPATH": str(REPOSITORY)}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """Bears sweeps in no time; what they start takes as long as it takes a user."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as ready:
        yield ready


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """A sweep that nothing happens to, two points at once: its folder, what it said, and how long it took."""
    place = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    process = nursery.cfm("sweep", file(place), "--json", "--jobs", 2, **own(place))
    assert process.wait(300) == 0, process.said()
    return place / "runs" / "tiny", json.loads(process.out()), process.err(), time.monotonic() - began


def test_every_point_is_an_ordinary_run_and_shares_what_can_be_shared(whole, capsys):
    folder, document, err, _ = whole
    check(document, "sweep")
    assert [(point["name"], point["state"]) for point in document["points"]] == [
        (name, "done") for name in NAMES
    ]
    runs = [StoredRun(folder / name) for name in NAMES]
    assert [run.state() for run in runs] == ["finished"] * 3
    done = [stage for run in runs for stage in computed(run.folder)]
    assert (done.count("squeeze"), done.count("statistics")) == (1, 1)
    assert done.count("recover") == done.count("validate") == 3
    assert [
        run.config_yaml().count("method: " + name[10:]) for run, name in zip(runs, NAMES, strict=True)
    ] == [1] * 3
    assert all("recover" in run.log() for run in runs)
    assert f"{NAMES[0]}: running" in err
    for point, run in zip(document["points"], runs, strict=True):
        assert point["accuracy"] == run.results()["summary"]["accuracy"]
    command = runs[1].manifest()["command"]
    assert command[:4] == ["cfm", "run", "--preset", "smoke"]
    assert "objective.method=hfm" in command
    table = call_json(capsys, "table", "table", folder)
    assert table["rows"] == ["cfm", "hfm", "lfm"]
    assert table["columns"][0]["name"] == "digits ipc 1 convnet"
    assert {
        cell["row"]: cell["accuracy"] for cell in table["cells"] if cell["row"] not in ("control", "start")
    } == {point["name"][10:]: point["accuracy"] for point in document["points"]}


def test_what_is_finished_is_not_touched_again(whole, here, capsys):
    folder = here / "runs" / "tiny"
    shutil.copytree(whole[0], folder)
    shutil.copytree(whole[0].parents[1] / "cache", here / "cache")
    before = times(folder)
    document = call_json(capsys, "sweep", "sweep", file(here), "-q")
    assert {point["state"] for point in document["points"]} == {"done"}
    text, _ = call(capsys, "sweep", folder, "-q")
    assert "3 of 3 points are done" in text
    after = times(folder)
    assert {path.name for path in {**before, **after} if before.get(path) != after.get(path)} <= {
        "sweep.json",
        "lock",
    }


def test_another_sweeps_points_are_refused_and_more_points_are_not(whole, here, capsys):
    folder = here / "runs" / "tiny"
    shutil.copytree(whole[0], folder)
    other = {**TINY, "set": {**TINY["set"], "recover.iterations": 2}}
    error = call_json(capsys, "error", "sweep", file(here, other), code=2)["error"]
    assert "recover.iterations is 3 instead of 2" in error["message"]
    fewer = {**TINY, "grid": {"objective": ["cfm"]}}
    error = call_json(capsys, "error", "sweep", file(here, fewer), code=2)["error"]
    assert "objective=hfm" in error["message"]
    error = call_json(capsys, "error", "sweep", file(here), "--budget", "0.5", "--out", folder, code=2)[
        "error"
    ]
    assert "budget" in error["message"]
    error = call_json(capsys, "error", "sweep", folder, "--ipc", "2", code=2)["error"]
    assert "remove the options" in error["hint"]
    (here / "full").mkdir()
    (here / "full" / "letter.txt").write_text("mine")
    error = call_json(capsys, "error", "sweep", file(here), "--out", here / "full", code=2)["error"]
    assert "not a sweep" in error["message"]


def test_a_dry_run_tells_the_points_and_leaves_nothing(here, capsys):
    path = file(here)
    text, _ = call(capsys, "sweep", path, "--dry-run", "--budget", "0.5", "--grid", "seed=[3,4]")
    assert "objective=cfm,seed=4" in text
    assert "objective=lfm seed=3" in text
    assert "6 points" in text
    assert "budget: recover.iterations 3 → 2" in text
    document = call_json(capsys, "sweep-points", "sweep", path, "--dry-run")
    assert [point["name"] for point in document["points"]] == NAMES
    assert not (here / "runs").exists()


def test_what_cannot_run_is_told_before_anything_is_begun(here, capsys):
    path = file(here, {**TINY, "grid": {"ipc": [1, 5000], "backbone.teacher": [None, "gone.pth"]}})
    error = call_json(capsys, "error", "sweep", path, code=2)["error"]
    assert "5000" in error["message"]
    assert "gone.pth" in error["message"]
    assert "3 points of the sweep cannot run" in error["message"]
    assert not list((here / "runs").glob("*/*/config.yaml"))


def test_a_point_that_fails_does_not_stop_the_others(here, capsys):
    common = {"validate.seeds": 1, "backbone.width": 8}
    grid = {"validate.optimiser.lr": [1e38, 0.001]}
    path = file(here, {"preset": "smoke", "set": common, "grid": grid})
    text, err = call(capsys, "sweep", path, "-q", "--jobs", "2", code=1)
    assert "1 of 2 points are done" in text
    assert "lr=1.0e+38: failed, the loss of convnet (distilled, seed 0) became" in text
    assert "lr=1.0e+38: failed" in err
    assert [StoredRun(here / "runs" / "tiny" / name).state() for name in ("lr=1.0e+38", "lr=0.001")] == [
        "failed",
        "finished",
    ]


# --- cut ----------------------------------------------------------------------------------------------


def family(process):
    """A process and all that it started."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def killed(process, place, seconds, everything):
    """Kill a sweep, alone or with all its runs, so many seconds after it has taken its folder."""
    until(lambda: process.poll() is not None or (place / "owner.json").exists(), said=process.said)
    time.sleep(seconds)
    for each in family(process) if everything else [process]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


@pytest.mark.parametrize("number", cases(2, 20))
def test_killed_at_any_moment_it_goes_on_and_runs_nothing_twice(whole, nursery, tmp_path, number):
    folder, _, _, seconds = whole
    rng = np.random.default_rng([17, number])
    words = ["sweep", file(tmp_path), "--jobs", 2]
    mine, finished = tmp_path / "runs" / "tiny", {}
    for _ in range(1 + number // 2 % 3):
        everything = number % 2 == 0
        process = nursery.cfm(*words, **own(tmp_path))
        killed(process, mine, rng.uniform(0.0, 0.9 * seconds), everything)
        written = [run.parent for run in mine.glob("*/results.json")] if everything else []
        done = [run for run in written if StoredRun(run).state() == "finished"]
        finished |= {path: told for run in done for path, told in times(run).items()}
    process = nursery.cfm(*words, **own(tmp_path))
    assert process.wait(300) == 0, process.said()
    done_by = {name: computed(mine / name) for name in NAMES}
    assert {name: sorted(set(done)) for name, done in done_by.items()} == {
        name: sorted(done) for name, done in done_by.items()
    }
    together = [stage for done in done_by.values() for stage in done]
    assert (together.count("squeeze"), together.count("statistics")) == (1, 1)
    assert outcome(mine) == outcome(folder)
    now = times(mine)
    assert {path for path in finished if now[path] != finished[path]} == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_its_runs_with_a_checkpoint(nursery, tmp_path, number, code):
    long = {**TINY["set"], "recover.iterations": 100000}
    slow = {**TINY, "set": long, "grid": {"objective": ["cfm", "hfm"]}}
    mine = tmp_path / "runs" / "tiny"
    process = nursery.cfm("sweep", file(tmp_path, slow), **own(tmp_path))
    recovering = lambda: process.poll() is not None or list(mine.glob("*/checkpoints/recover*"))  # noqa: E731
    until(recovering, said=process.said)
    runs = family(process)[1:]
    process.send(number)
    assert process.wait() == code, process.said()
    assert f"`cfm sweep {mine}` resumes it" in process.err()
    assert runs
    assert not any(run.is_running() for run in runs)
    assert StoredRun(mine / "objective=cfm").state() == "stopped"
    assert not (mine / "objective=hfm").exists()
    assert StoredRun(mine / "objective=cfm").checkpoints() > 0


def test_runs_that_outlive_their_sweep_are_waited_for_and_can_be_stopped(nursery, tmp_path):
    slow = {**TINY, "set": {**TINY["set"], "recover.iterations": 100000}, "grid": {"objective": ["cfm"]}}
    mine = tmp_path / "runs" / "tiny"
    words = ["sweep", file(tmp_path, slow)]
    process = nursery.cfm(*words, **own(tmp_path))
    recovering = lambda: process.poll() is not None or list(mine.glob("*/checkpoints/recover*"))  # noqa: E731
    until(recovering, said=process.said)
    run = family(process)[1]
    process.kill()
    process.wait()
    again = nursery.cfm(*words, **own(tmp_path))
    until(lambda: again.poll() is not None or "running from an earlier sweep" in again.err(), said=again.said)
    assert run.is_running()
    again.send(signal.SIGINT)
    assert again.wait() == 130, again.said()
    assert StoredRun(mine / "objective=cfm").state() == "stopped"
    assert len(StoredRun(mine / "objective=cfm").manifest()["sessions"]) == 1
    psutil.wait_procs([run], timeout=10)
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE  # its foster parent may be late
