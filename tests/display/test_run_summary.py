"""The summary of a run: of one that is computed, one at work, and some that are damaged."""

import shutil
import subprocess
import sys
import time

import pytest
from commandline import REPOSITORY
from recorded import layout, opened, progress

from cfm_tui.display import run_summary
from cfm_tui.display.run_summary import RunSummary, split_settings
from engine import events
from engine.config import presets, settings, yaml_io
from engine.runs import results
from engine.store import StoredRun
from engine.store.json_file import read_json, write_json


def read(folder):
    return RunSummary.read(StoredRun(folder))


def test_a_finished_run_tells_its_settings_and_results(finished):
    run, document = read(finished), StoredRun(finished).results()
    config = settings.load_stored(StoredRun(finished)).config
    assert (run.name, run.state, run.folder, run.is_active) == ("run", "finished", finished, False)
    assert (run.data, run.ipc, run.seed) == (config.data.name, config.ipc, config.seed)
    assert (run.network, run.method) == (config.backbone.name, config.objective.method)
    summary = document["summary"]
    assert run.accuracy == summary["accuracy"]
    assert run.best == summary["accuracy_best"]
    assert run.teacher == summary["teacher"]["mean"]
    versus = summary["versus_control"]
    assert (run.difference, run.verdict) == (
        (None, None) if versus is None else (versus["difference"], versus["verdict"])
    )
    spent = [each for each in results.sum_timings(document).values() if not each["reused"]]
    assert run.seconds == pytest.approx(sum(each["seconds"] for each in spent))
    assert run.stage_seconds_left is None
    assert 0 <= run.age_seconds < 86400
    assert run.setting("recover.iterations") == config.recover.iterations
    assert run.setting("no.such") is None


@pytest.mark.parametrize("name", presets.preset_names())
def test_the_settings_of_a_file_are_those_of_the_configuration(name):
    resolved = settings.resolve(preset=name)
    found = split_settings(settings.to_yaml(resolved.config, resolved.origins))
    values = {key: yaml_io.parse(text, key) for key, text in found.items()}
    plain = yaml_io.parse(yaml_io.inline(resolved.config.to_dict()), "all")
    for key, value in values.items():
        expected = plain
        for part in key.split("."):
            expected = expected[part]
        assert value == expected, key
    assert set(values) == set(resolved.config.flatten())


@pytest.mark.parametrize("text", ["my data", "a # b", "x: y", "null", "12", "it's", 'say "so"', "Ünï"])
def test_a_name_that_yaml_quotes_is_read_as_it_is(tmp_path, text):
    opened(tmp_path / "odd", text=f"data:\n  name: {yaml_io.inline(text)}   # flag\n").close("stopped")
    assert read(tmp_path / "odd").data == text


def test_a_run_at_work_tells_its_progress(tmp_path):
    run = opened(tmp_path / "live", text="seed: 3\nipc: 10\n")
    run.record(events.StageStarted("recover", 8, "iterations"))
    run.record(layout())
    run.record(progress(1, 0))
    run.close("stopped")
    path = tmp_path / "live" / "status.json"
    status = {"state": "running", "stage": "recover", "total": 8, "done": 2, "rate": 2.0, "time": "x"}
    write_json(path, {**status, **{key: read_json(path)[key] for key in ("pid", "host", "started")}})
    live = read(tmp_path / "live")
    assert (live.state, live.stage, live.done) == ("running", "recover", 0.25)
    assert live.stage_seconds_left == 3.0
    assert (live.seed, live.ipc, live.accuracy) == (3, 10, None)
    write_json(path, {**read_json(path), "state": "stopped"})
    assert read(tmp_path / "live").stage_seconds_left is None


def test_what_cannot_be_read_is_told(tmp_path, finished):
    for name in ("whole", "torn", "newer", "old"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "torn" / "config.yaml").write_text("seed: 5\n")
    manifest = read_json(tmp_path / "newer" / "manifest.json")
    write_json(tmp_path / "newer" / "manifest.json", {**manifest, "schema_version": 99})
    states = {name: read(tmp_path / name) for name in ("whole", "torn", "newer")}
    assert [run.state for run in states.values()] == ["finished", "damaged", "newer"]
    assert states["torn"].created == states["whole"].created
    assert states["torn"].settings == {}


def test_age_is_counted_from_the_creation(tmp_path):
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    assert RunSummary(tmp_path, "x", "new", moment).age_seconds == pytest.approx(3600, abs=5)
    assert RunSummary(tmp_path, "x", "damaged").age_seconds is None


def test_reading_a_run_imports_neither_torch_nor_pydantic(finished):
    assert run_summary.RESULTS_VERSION == results.SCHEMA_VERSION
    program = (
        "import sys; from pathlib import Path; from cfm_tui.display.run_summary import RunSummary\n"
        "from engine.store import StoredRun\n"
        f"assert RunSummary.read(StoredRun(Path({str(finished)!r}))).accuracy is not None\n"
        "print([name for name in ('torch', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
