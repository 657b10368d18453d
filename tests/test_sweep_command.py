"""`cfm sweep` as a person starts it: runs, goes on, stops, is killed, and tells what came of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import numpy as np
import psutil
import pytest
from commandline import REPOSITORY, call, call_json, started
from swept import TINY, computed, file, outcome, times

from engine.store import StoredRun

NAMES = [f"objective={name}" for name in ("cfm", "hfm", "lfm")]


def environment(place):
    own = {"CFM_RUNS": str(place / "runs"), "CFM_CACHE": str(place / "cache"), "PYTHONPATH": str(REPOSITORY)}
    return {**os.environ, **own}


@pytest.fixture
def here(monkeypatch, tmp_path):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing happens to, two points at once: its folder, what it said, and how long it took."""
    place = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    words = ["sweep", str(file(place)), "--json", "--jobs", "2"]
    with started(*words, seconds=300, env=environment(place)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    return place / "runs" / "tiny", json.loads(out), err, time.monotonic() - began


def test_every_point_is_an_ordinary_run_and_shares_what_can_be_shared(whole, capsys):
    folder, document, err, _ = whole
    from commandline import check

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
    assert {cell["row"]: cell["accuracy"] for cell in table["cells"] if cell["row"] != "control"} == {
        point["name"][10:]: point["accuracy"] for point in document["points"]
    }


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
    assert "recover.iterations is 3 there and 2 here" in error["message"]
    fewer = {**TINY, "grid": {"objective": ["cfm"]}}
    error = call_json(capsys, "error", "sweep", file(here, fewer), code=2)["error"]
    assert "objective=hfm" in error["message"]
    error = call_json(capsys, "error", "sweep", file(here), "--budget", "0.5", "--out", folder, code=2)[
        "error"
    ]
    assert "budget" in error["message"]
    error = call_json(capsys, "error", "sweep", folder, "--ipc", "2", code=2)["error"]
    assert "leave the options out" in error["hint"]
    (here / "full").mkdir()
    (here / "full" / "letter.txt").write_text("mine")
    error = call_json(capsys, "error", "sweep", file(here), "--out", here / "full", code=2)["error"]
    assert "no sweep" in error["message"]


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
    path = file(
        here, {**TINY, "grid": {"recover.lr": [1e38, 0.1]}, "set": {"validate.seeds": 1, "backbone.width": 8}}
    )
    document = call_json(capsys, "sweep", "sweep", path, "-q", code=1)
    first, second = document["points"]
    assert (first["state"], second["state"]) == ("failed", "done")
    assert first["message"]
    assert first["accuracy"] is None
    text, _ = call(capsys, "sweep", here / "runs" / "tiny", "-q", code=1)
    assert "lr=1e38" in text or "lr=1e+38" in text
    assert "1 of 2 points are done" in text


# --- cut ----------------------------------------------------------------------------------------------


def family(process):
    """A process and all that it started."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cut(words, place, after, everything):
    """Start a sweep, and kill it, or it and all its runs, so many seconds after its first run came to be."""
    with started(*words, seconds=300, env=environment(place)) as process:
        folder = place / "runs" / "tiny"
        while process.poll() is None and not list(folder.glob("*/owner.json")):
            time.sleep(0.005)
        time.sleep(after)
        for each in family(process) if everything else [process]:
            each.kill()
        process.wait()
        return process.returncode


@pytest.mark.parametrize("number", [0, 1])
def test_killed_at_any_moment_it_goes_on_and_runs_nothing_twice(whole, tmp_path, number):
    folder, _, _, seconds = whole
    rng = np.random.default_rng([17, number])
    words = ["sweep", str(file(tmp_path)), "--jobs", "2"]
    mine = tmp_path / "runs" / "tiny"
    finished = {}
    for _ in range(2):
        cut(words, tmp_path, rng.uniform(0.0, seconds / 2), everything=number == 0)
        if number == 0:
            finished = {
                path: told for run in mine.glob("*/results.json") for path, told in times(run.parent).items()
            }
    with started(*words, seconds=300, env=environment(tmp_path)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    for name in NAMES:
        done = computed(mine / name)
        assert sorted(done) == sorted(set(done)), (name, done)
    done = [stage for name in NAMES for stage in computed(mine / name)]
    assert (done.count("squeeze"), done.count("statistics")) == (1, 1)
    assert outcome(mine) == outcome(folder)
    now = times(mine)
    assert {path for path in finished if now[path] != finished[path]} == set()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_its_runs_with_a_checkpoint(whole, tmp_path, number, code):
    slow = {
        **TINY,
        "set": {**TINY["set"], "recover.iterations": 100000},
        "grid": {"objective": ["cfm", "hfm"]},
    }
    mine = tmp_path / "runs" / "tiny"
    with started("sweep", str(file(tmp_path, slow)), seconds=120, env=environment(tmp_path)) as process:
        while process.poll() is None and not list(mine.glob("*/checkpoints/recover*")):
            time.sleep(0.01)
        runs = family(process)[1:]
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code, err
    assert f"`cfm sweep {mine}` goes on with it" in err
    assert not any(run.is_running() for run in runs)
    assert StoredRun(mine / "objective=cfm").state() == "stopped"
    assert not (mine / "objective=hfm").exists()
    assert StoredRun(mine / "objective=cfm").checkpoints() > 0
