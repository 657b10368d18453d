"""The folder of a sweep, which belongs to one sweep and its inputs."""

import pytest
import swept
from swept import GRID

from engine.errors import UserError
from engine.store.sweeps import StoredSweep
from engine.sweep import folder
from engine.sweep.description import Options


def test_a_sweep_resumes_only_with_the_same_inputs(tmp_path):
    place = swept.made(tmp_path / "two", GRID, {}).folder
    first, second = {"data": "d", "teacher": "t"}, {"data": "d", "teacher": "u"}
    folder.write_manifest(place, None, {"objective=cfm,seed=0": first})
    stored = folder.write_manifest(place, None, {"objective=lfm,seed=0": second})
    assert len(folder.load_points(stored)) == 4
    folder.require_same_inputs(place, {"objective=cfm,seed=0": first, "objective=cfm,seed=1": second})
    with pytest.raises(UserError, match="objective=cfm,seed=0 used another teacher"):
        folder.require_same_inputs(place, {"objective=cfm,seed=0": second})


def test_a_sweep_is_planned_as_its_options_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Options(ipcs=[2], budget=0.5, sets=["data.root=images"])
    planned = folder.plan_sweep(str(swept.file(tmp_path, GRID)), options, tmp_path / "runs")
    assert planned.folder == tmp_path / "runs" / "tiny-ipc2-budget0.5"
    assert {point.config.ipc for point in planned.points} == {2}
    planned.create()
    planned.create()  # the same one again
    stored = StoredSweep(planned.folder)
    assert stored.manifest()["budget"] == 0.5
    assert {point.config.data.root for point in folder.load_points(stored)} == {str(tmp_path / "images")}
    assert stored.owner() is None
    again = folder.plan_sweep(str(planned.folder), Options(), tmp_path / "runs")
    assert (again.points, again.manifest()) == (folder.load_points(stored), None)
    with pytest.raises(UserError, match="settings cannot be changed"):
        folder.plan_sweep(str(planned.folder), options, tmp_path / "runs")
    other = folder.plan_sweep(str(swept.file(tmp_path, GRID)), Options(), tmp_path / "runs", planned.folder)
    with pytest.raises(UserError, match="its budget"):
        other.create()


@pytest.mark.parametrize("budget", [0, 1.5, float("nan")])
def test_a_budget_that_is_no_fraction_is_refused(budget):
    with pytest.raises(UserError, match="not a fraction"):
        Options(budget=budget)
