"""A run that is watched, paused, saved, stopped, lost and taken up again from another process."""

from __future__ import annotations

import json
import shutil
import signal
import time

import numpy as np
import pytest
from bar import FULL
from commandline import call, call_json
from processes import until
from smallest import slow

from engine.events import STAGES
from engine.store import RunFile, control

THREADS = "\nimport torch\ntorch.set_num_threads({count})\n"


def killed(case, stage):
    """A run that was killed in a stage."""
    process = case.start(code=slow())
    case.at(stage, process)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def journal_size(case):
    return (case.run / RunFile.JOURNAL).stat().st_size


@pytest.mark.parametrize("stage", STAGES if FULL else ["recover"])
def test_pause_continue_checkpoint_stop(case, counted, capsys, stage):
    with counted("remote hands"):
        process = case.start(code=slow(0.1 if stage == "validate" else 0.02))
        case.at(stage, process)
        assert "pause done; paused" in call(capsys, "pause", case.run)[0]
        assert case.stored.state() == "paused"
        size = journal_size(case)
        time.sleep(0.6)
        assert journal_size(case) == size
        assert "checkpoint done" in call(capsys, "checkpoint", case.run)[0]
        assert "continue done; running" in call(capsys, "continue", case.run)[0]
        assert "checkpoint done" in call(capsys, "checkpoint", case.run)[0]
        assert "is stopped in stage" in call(capsys, "stop", case.run)[0]
        assert process.wait() == 130, process.said()
        assert case.heard("Paused")
        assert case.heard("Continued")
        assert case.stored.state() == "stopped"
        assert "stopped" in process.err()
        assert "is stopped" in call(capsys, "pause", case.run, code=2)[1]
        case.finish()


def test_a_paused_run_can_be_stopped_and_saved(case, counted, capsys):
    with counted("remote hands"):
        process = case.start(code=slow())
        case.at("squeeze", process)
        call(capsys, "pause", case.run)
        assert "is stopped in stage" in call(capsys, "stop", case.run)[0]
        assert process.wait() == 130, process.said()
        case.finish()


def test_a_signal_reaches_a_paused_run(case, counted, capsys):
    with counted("remote hands"):
        process = case.start(code=slow())
        case.at("validate", process)
        call(capsys, "pause", case.run)
        process.send(signal.SIGTERM)
        assert process.wait() == 143, process.said()
        assert case.stored.state() == "stopped"
        case.finish()


def test_a_run_that_is_lost_is_told_with_the_command_that_resumes_it(case, counted, capsys):
    with counted("lost run told"):
        killed(case, "recover")
        resumes = f"`cfm resume {case.run}` resumes it"
        out, _ = call(capsys, "runs", "--folder", case.folder)
        assert "lost recover" in out
        assert resumes in out
        entries = call_json(capsys, "runs", "runs", "--folder", case.folder)["runs"]
        assert [entry["state"] for entry in entries] == ["lost"]
        out, err = call(capsys, "watch", case.run, code=1)
        assert "lost" in out
        assert resumes in out
        assert "squeeze: " in err
        out, err = call(capsys, "pause", case.run, code=2)
        assert "is lost" in err
        assert resumes in err
        assert not list(case.run.glob("control/*"))
        case.finish()


@pytest.mark.parametrize("end", ["finished", "stopped", "lost"])
def test_watching_follows_to_the_end(case, counted, end):
    with counted(f"watched until {end}"):
        process = case.start(code=slow())
        until(case.stored.owner, said=process.said)
        watching = case.nursery.cfm("watch", case.run)
        until(lambda: "squeeze: " in watching.err(), said=watching.said)
        if end != "finished":
            case.at("recover", process)
            process.send(signal.SIGTERM if end == "stopped" else signal.SIGKILL)
        process.wait()
        assert watching.wait() == (1 if end == "lost" else 0), watching.said()
        assert f"{case.run}: {end}" in watching.out()
        assert "Traceback" not in watching.err()
        if end == "finished":
            assert "distilled" in watching.out()
            assert all(f"{stage}: " in watching.err() for stage in STAGES)
            later = case.nursery.cfm("watch", case.run)
            assert later.wait() == 0
            assert later.out() == watching.out()
        else:
            case.finish()


def test_leaving_a_watcher_does_not_touch_the_run(case, counted):
    with counted("watcher left"):
        process = case.start(code=slow())
        case.at("squeeze", process)
        watching = case.nursery.cfm("watch", case.run)
        until(lambda: "squeeze: " in watching.err(), said=watching.said)
        watching.send(signal.SIGINT)
        assert watching.wait() == 130
        assert process.wait() == 0, process.said()
        case.require_whole()


def test_what_an_earlier_owner_was_asked_is_not_asked_of_the_next(case, counted):
    with counted("stale requests"):
        killed(case, "statistics")
        for command in ("stop", "pause"):
            control.request(case.run, command)
        case.finish()
        assert not case.heard("Paused")
        assert not list(case.run.glob("control/*"))


def test_a_finished_run_prints_its_results_again(case, counted, capsys):
    with counted("resumed when finished"):
        process = case.start()
        assert process.wait() == 0, process.said()
        images = sorted((path, path.stat().st_mtime_ns) for path in case.run.glob("images/**/*.png"))
        again = case.resume()
        assert again.wait() == 0
        assert again.out() == process.out()
        assert "is finished; these are its results" in again.err()
        document = case.resume("--json")
        assert document.wait() == 0
        assert json.loads(document.out())["summary"] == case.stored.results()["summary"]
        assert "is finished" in call(capsys, "stop", case.run, code=2)[1]
        case.require_whole()
        assert images == sorted((path, path.stat().st_mtime_ns) for path in case.run.glob("images/**/*.png"))


def test_other_settings_are_refused_where_they_matter_for_what_is_there(case, counted):
    with counted("other settings"):
        killed(case, "recover")
        size = journal_size(case)
        for change, before, now in (
            ("recover.lr", "0.25", "0.125"),
            ("squeeze.epochs", "2", "3"),
            ("seed", "0", "7"),
        ):
            process = case.start("--set", f"{change}={now}")
            assert process.wait() == 2, process.said()
            assert f"{change} is " in process.err()
            assert f"{now} here" in process.err()
            assert f"{change} is {before} there" in process.err()
        assert journal_size(case) == size
        process = case.start("--set", "checkpoint_seconds=5", "--set", "device=cpu", "--json")
        assert process.wait() == 0, process.said()
        case.require_whole()


def test_settings_of_stages_to_come_may_be_changed(case, counted):
    with counted("other settings"):
        killed(case, "recover")
        process = case.resume("--set", "validate.epochs=9", "--set", "relabel.stored_epochs=9")
        assert process.wait() == 0, process.said()
        assert case.heard("EpochFinished", source="distilled", epoch=9, epochs=9)
        expected, found = case.undisturbed.expected, case.outcome()
        same = [name for name in expected if name.startswith(("images", "moving", "metrics", "cache"))]
        assert len(same) > 30
        assert [name for name in same if found[name] != expected[name]] == []
        again = case.resume()
        assert again.wait() == 0, again.said()
        assert case.start().wait() == 2  # the settings that it was begun with are others now


def test_another_thread_count_is_told(case, counted):
    with counted("other circumstances"):
        killed(case, "squeeze")
        process = case.resume("--set", "threads=2", code=THREADS.format(count=2))
        assert process.wait() == 0, process.said()
        assert "no longer bit-for-bit reproducible" in process.err()
        assert "threads was 1 in the first session and 2 later" in process.err()
        assert case.stored.results()["repeats"][0]["provenance"]["bit_exact"] is False


def test_a_teacher_that_is_gone_is_squeezed_again_bit_for_bit(case, counted):
    with counted("cache gone"):
        killed(case, "recover")
        shutil.rmtree(case.folder / "cache")
        case.finish()


def test_two_runs_share_a_cache_while_one_is_killed(case, counted):
    """What the killed one left in the cache is whole, or is not there."""
    with counted("cache shared"):
        rng = np.random.default_rng(3)
        process = case.start()
        case.at("squeeze", process)
        time.sleep(rng.uniform(0.0, case.undisturbed.seconds["squeeze"]))
        process.kill()
        process.wait()
        shutil.rmtree(case.run)
        process = case.start()
        assert process.wait() == 0, process.said()
        case.require_whole()
