"""The folder of a sweep, which belongs to one sweep and its inputs."""

import pytest
import swept
from swept import GRID

from engine.errors import UserError
from engine.sweep import folder


def test_a_sweep_resumes_only_with_the_same_inputs(tmp_path):
    place = swept.made(tmp_path / "two", GRID, {}).folder
    first, second = {"data": "d", "teacher": "t"}, {"data": "d", "teacher": "u"}
    folder.write_manifest(place, None, {"objective=cfm,seed=0": first})
    stored = folder.write_manifest(place, None, {"objective=lfm,seed=0": second})
    assert len(folder.load_points(stored)) == 4
    folder.require_same_inputs(place, {"objective=cfm,seed=0": first, "objective=cfm,seed=1": second})
    with pytest.raises(UserError, match="objective=cfm,seed=0 used another teacher"):
        folder.require_same_inputs(place, {"objective=cfm,seed=0": second})
