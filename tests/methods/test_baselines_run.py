"""Whole runs of the baselines on the embedded digits: their records, their cost, and how they are told."""

from __future__ import annotations

import numpy as np
import pytest
from commandline import call
from stages import drive

from cfm_tui.console import formatting
from cfm_tui.console.form import Form
from cfm_tui.console.preflight import Findings
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from engine import backbones
from engine.config import settings
from engine.errors import UserError
from engine.events import StageFinished
from engine.report import figures
from engine.report.lens import Lens
from engine.report.subject import Subject
from engine.runs import estimates, launch, plan
from engine.runs.artefacts import ComputeContext
from engine.store import Cache, StoredRun, json_file
from engine.store import images as stored_images

TAKEN = ("random", "rded")  #: what they make is not optimised
METHODS = ("random", "sre2l", "cda", "dwa", "gvbsm", "rded")
FEW = ["validate.epochs=1", "validate.seeds=1", "backbone.width=8"]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory, tmp_path):
    cache = tmp_path_factory.getbasetemp() / "shared-cache"
    for name, value in (("RUNS", tmp_path / "runs"), ("CACHE", cache)):
        monkeypatch.setenv(f"CFM_{name}", str(value))
    monkeypatch.chdir(tmp_path)


def resolved(method, *sets):
    few = [*FEW, "backbone.also=[shufflenet_v2_x1_0]", "squeeze.epochs=3"] if method == "gvbsm" else FEW
    return settings.resolve(preset="smoke", sets=["repeats=1", f"objective={method}", *few, *sets])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_ends_with_images_of_every_class_and_its_control_beside(method, tmp_path, capsys):
    got = resolved(method, "ipc=2")
    events, results = drive(launch.run_experiment(got, tmp_path / "run", "run"))
    images = stored_images.read(tmp_path / "run" / "images")
    assert sorted(images.labels_N.tolist()) == sorted(list(range(10)) * 2)
    assert np.isfinite(images.images_NCHW).all()
    assert np.isnan(images.beta_N).all() == np.isnan(images.beta_N).any() == (method in TAKEN)
    summary = results["summary"]
    students = {student["source"]: student["weights"] for student in results["repeats"][0]["students"]}
    starts_from_real = got.config.optimises and got.config.recover.init != "noise"
    expected = {"distilled", *([] if method == "random" else ["random"]), *(["start"] * starts_from_real)}
    assert set(students) == expected
    assert (summary["control"] is None) is (method == "random")
    reused = {event.stage: event.reused for event in events if isinstance(event, StageFinished)}
    assert reused["recover"] is False
    if method in TAKEN:
        assert reused["statistics"] is True
    assert ("others" in StoredRun(tmp_path / "run").manifest()) is (method == "gvbsm")
    call(capsys, "check", tmp_path / "run")
    grid, _ = call(capsys, "show", tmp_path / "run", "--betas")
    assert ("β 0" in grid) is (method not in TAKEN)
    model = RunModel(StoredRun(tmp_path / "run"))
    model.read(9)
    assert (model.state, model.damage, model.stages["recover"].state) == ("finished", "", "done")
    assert len(plot_data.losses(model)) == (1 if method in TAKEN else 3)
    told = [line.text for line in model.log if " images" in line.text and "batch" in line.text]
    assert (model.betas, model.beta, plot_data.betas(model)) == ([], None, [])  # no filter of these reads it
    assert "β" not in " ".join(told)
    losses, _ = call(capsys, "show", tmp_path / "run", "--losses")
    assert ("no losses: nothing is optimised" in losses) is (method in TAKEN)
    assert "nan" not in " ".join([grid, *told])
    assert formatting.list_layers(model, lambda values: "", 8) is not None
    again, _ = drive(launch.run_experiment(got, tmp_path / "run", "run"))
    assert all(event.reused for event in again if isinstance(event, StageFinished))


@pytest.mark.parametrize("method", METHODS)
def test_what_it_would_cost_is_found_by_trying(method):
    prepared = plan.prepare(resolved(method).config)
    found = estimates.estimate(prepared, Cache())
    assert (found.seconds["recover"] > 0) is (method != "random")
    assert found.disk_bytes == prepared.bytes_needed()
    if method in TAKEN:
        assert found.seconds["statistics"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_form_of_a_new_experiment_knows_it(method):
    form = Form("cifar10-10", {})
    form.write("objective.method", method)
    checked = form.check()
    assert checked.resolved is not None
    assert form.config.objective.method == method
    name, x, y = Findings(form.config).compute_betas()
    assert len(x) == len(y) == 0
    why = "nothing is optimised" if method in TAKEN else "no filter of this method reads it"
    assert name == f"no β: {why}"
    assert (Findings(form.config).compute_responses()[0] == []) is (method in TAKEN)
    sets = settings.format_sets(checked.changes)
    assert settings.resolve(preset="cifar10-10", sets=sets).config == form.config


def test_a_run_whose_second_teacher_is_another_is_not_gone_on_with(tmp_path):
    got = resolved("gvbsm")
    work = launch.run_experiment(got, tmp_path / "run", "run")
    for event in work:
        if isinstance(event, StageFinished) and event.stage == "statistics":
            work.close()
    manifest = StoredRun(tmp_path / "run").manifest()
    assert len(manifest["others"]) == 1
    json_file.write_json(tmp_path / "run" / "manifest.json", {**manifest, "others": ["0" * 64]})
    with pytest.raises(UserError, match="different weights"):
        drive(launch.run_experiment(got, tmp_path / "run", "run"))


@pytest.mark.parametrize("method", ["sre2l", "gvbsm"])
def test_a_report_shows_spectra_where_the_objective_knows_none(method, teacher, digits, tmp_path, cpu):
    got, train = resolved(method, "backbone.width=16"), digits.train
    lens = Lens(digits, teacher, "0")
    few = lens.as_image_set(train.pixels(range(20)).numpy(), train.labels_N[:20].numpy())
    place = ComputeContext(cpu, Cache(tmp_path / "cache"))
    _, layers = drive(lens.measure_spectra(got.config, few, place))
    assert [layer.name for layer in layers] == backbones.conv_names(teacher)
    assert all(layer.real_D is not None and layer.synthetic_D is not None for layer in layers)
    subject = Subject(StoredRun(tmp_path), "finished", got, layers=layers, source="images")
    assert "at the inputs of convolutions" in figures.spectra(subject).caption


def test_a_run_tells_what_its_method_set(capsys, tmp_path):
    words = ["run", "--preset", "smoke", "--out", tmp_path / "run"]
    for said in ("objective=rded", "recover.select.crops=2", *FEW):
        words += ["--set", said]
    _, err = call(capsys, *words)
    first = err.splitlines()[0]
    assert first.startswith("method rded: ")
    assert "recover.algorithm=select" in first
    assert "recover.select.pool=300" in first
    assert "recover.select.crops" not in first  # a flag's
