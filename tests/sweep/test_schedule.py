"""The order of points: no two compute the same artefact at once."""

from swept import GRID, expanded

from engine.config import Config
from engine.sweep.schedule import Schedule, list_shared_artefacts


def test_a_shared_artefact_is_computed_by_one_point_while_the_others_wait():
    all_points = expanded({**GRID, "grid": {"seed": [0, 1], "objective": ["cfm", "lfm", "sre2l"]}})
    schedule = Schedule(all_points)

    def begin():
        name = schedule.next()
        if name is not None:
            schedule.states[name] = "running"
        return name

    assert begin() == "seed=0,objective=cfm"
    assert begin() == "seed=1,objective=cfm"  # another teacher
    assert begin() is None
    schedule.reached("seed=0,objective=cfm", "statistics")
    assert begin() == "seed=0,objective=sre2l"  # the same teacher, its statistics at other taps
    assert begin() is None
    schedule.reached("seed=0,objective=cfm", "recover")
    assert begin() == "seed=0,objective=lfm"
    schedule.states["seed=1,objective=cfm"] = "failed"  # the next one makes it
    assert begin() == "seed=1,objective=lfm"
    assert begin() is None


def test_started_points_are_resumed_first():
    all_points = expanded(GRID)
    assert Schedule(all_points, ["objective=lfm,seed=0"]).next() == "objective=lfm,seed=0"
    assert Schedule(all_points).next() == "objective=cfm,seed=0"


def test_shared_artefacts_are_identified_by_their_settings():
    def of(**changes):
        return list_shared_artefacts(Config.model_validate(changes))

    assert of() == of(recover={"lr": 0.5}, ipc=3)
    assert of()["squeeze"] != of(seed=1)["squeeze"]
    assert of(backbone={"teacher": "a.pth"})["squeeze"] == []
    assert of(backbone={"teacher": "a.pth"}) == of(backbone={"teacher": "a.pth"}, seed=1)
    goal = {"taps": "bn-conv", "terms": [{"filter": "diagonal"}]}
    several = of(backbone={"also": ["resnet18"]}, recover={"emu": False}, objective=goal)
    assert several["squeeze"] == of()["squeeze"] + of(backbone={"name": "resnet18"})["squeeze"]
    assert len(several["statistics"]) == 2
    assert of(recover={"algorithm": "none"})["statistics"] == []
    assert of()["squeeze"] == of(statistics={"batch": 3})["squeeze"]
    assert of()["statistics"] != of(statistics={"batch": 3})["statistics"]
    given, mixed = {"teacher": "a.pth"}, {"order": "mixed"}
    assert of(backbone=given, statistics=mixed) == of(backbone=given, statistics=mixed, seed=1)
    batched = {**mixed, "estimator": "batched"}
    assert of(backbone=given, statistics=batched) != of(backbone=given, statistics=batched, seed=1)
