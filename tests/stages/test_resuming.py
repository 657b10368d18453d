"""Stages that are left at any of their checkpoints and taken up again: the same, bit for bit."""

import numpy as np
import pytest
import stages
import torch
from resuming import left_everywhere, recovered_again, recovering, said, same, taken_up, unhurried
from stages import drive, small

from engine import backbones, checkpoint
from engine.backbones.labeller import Labeller
from engine.checkpoint import StageState
from engine.events import EpochFinished, RecoverProgress
from engine.runs import artefacts
from engine.spectral import microbatch, recovery_batches
from engine.spectral.moments import pack
from engine.stages import recover, relabel, squeeze, statistics, validate
from engine.stages.training import EpochLog, Trainer


@pytest.fixture
def control(digits):
    return recovery_batches.control_set(small(), digits.train)


def everywhere(**changes):
    """A small configuration that offers a checkpoint wherever possible."""
    return small(checkpoint_seconds=0, **changes)


@pytest.mark.parametrize(
    ("optimiser", "backbone", "precision"),
    [
        ({"name": "sgd", "momentum": 0.9, "lr": 0.05}, "convnet", "float32"),
        ({"name": "sgd", "momentum": 0.0, "lr": 0.05}, "convnet", "bfloat16"),
        ({"name": "adam"}, "convnet", "float32"),
        ({"name": "adamw"}, "mobilenet_v2", "float32"),  # it drops out
    ],
)
def test_squeeze(digits, cpu, optimiser, backbone, precision):
    train = part_of(digits.train, 100)
    settings = {"epochs": 2, "batch": 40, "optimiser": {"lr": 1e-3, **optimiser}, "precision": precision}
    config = everywhere(backbone={"name": backbone}, squeeze=settings)

    def begin(saved):
        return squeeze.squeeze(config, artefacts.build_network(config, digits), train, cpu, saved)

    events, model, points = left_everywhere(begin)
    assert [(state.metadata["epoch"], state.metadata["batch"]) for _, state in points] == [
        (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0),
    ]  # fmt: skip
    for _, _, again in taken_up(begin, events, points):
        assert same(model.state_dict(), again.state_dict())
    offered_never, plain = drive(begin_of(config, squeeze.squeeze, digits, train, cpu))
    assert same(model.state_dict(), plain.state_dict())
    assert said(offered_never) == said(events)


def begin_of(config, stage, digits, train, cpu):
    return stage(unhurried(config), artefacts.build_network(config, digits), train, cpu)


def part_of(images, count):
    """The first `count` images of a set."""
    return images.from_arrays(
        images.pixels(range(count)), images.labels_N[:count], images.classes, images.mean, images.std
    )


@pytest.mark.parametrize("estimator", ["pooled", "batched"])
@pytest.mark.parametrize("objective", [{}, {"taps": "bn-conv", "terms": [{"filter": "diagonal"}]}])
def test_statistics(teacher, digits, cpu, estimator, objective):
    train = part_of(digits.train, 100)
    measured = {"estimator": estimator, "batch": 30, "order": "mixed"}
    config = everywhere(statistics=measured, objective=objective)

    def begin(saved):
        return statistics.measure(config, teacher, train, cpu, saved)

    events, real, points = left_everywhere(begin)
    assert [state.metadata["done"] for _, state in points] == [30, 60, 90, 100]
    for _, _, again in taken_up(begin, events, points):
        assert same(pack(real), pack(again))


def test_a_rate_is_that_of_the_last_minute_whatever_the_last_step_took():
    rate = checkpoint.Rate()
    assert rate.add(200, 10.0) == 20.0
    told = [rate.add(1, seconds) for _ in range(30) for seconds in (1.0, 4.0, 10.0)]
    assert told[-1] == pytest.approx(3 / 15, rel=0.1)
    assert max(told[-9:]) < 1.2 * min(told[-9:])
    assert rate.add(1, 100.0) == 0.01


def test_the_cross_entropy_of_a_scored_set_goes_on_too(teacher, digits, cpu):
    config = everywhere(statistics={"batch": 30})
    network = statistics.Tapped(teacher, config.objective.taps, cpu)
    train = part_of(digits.train, 100)

    def begin(saved):
        return statistics.measure_set(config, network, train, cpu, saved)

    _, (_, ce), points = left_everywhere(begin)
    assert {drive(begin(state))[1][1] for _, state in points} == {ce}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recover": {"emu": False, "clamp": False}},
        {"recover": {"init": "noise", "classes_per_batch": 5, "iterations": 3}},
        {"recover": {"precision": "bfloat16", "iterations": 3}, "objective": {"signal": "class"}},
        {
            "recover": {"iterations": 3},
            "objective": {
                "taps": "batchnorm",
                "terms": [{"filter": "diagonal"}, {"filter": "identity", "signal": "mean"}],
            },
        },
    ],
)
def test_recover(teacher, digits, cpu, changes):
    config = everywhere(**changes)
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    begin, parts = recovering(config, [(teacher, real)], digits.train, cpu)
    plain, _ = drive(begin(None, unhurried(config)))
    expected = dict(parts)
    events, moving, points = left_everywhere(begin)
    assert said(plain) == said(events)
    assert all(same(expected[batch], parts[batch]) for batch in parts)
    count, each = len(parts), config.recover.iterations
    places = [(state.metadata["batch"], state.metadata["iteration"]) for _, state in points]
    assert places == [
        place for b in range(1, count + 1) for place in [*((b, i) for i in range(1, each)), (b + 1, 0)]
    ]
    assert (moving is not None) == config.recover.emu
    for told, state in points:
        there = said(event for event in events[:told] if isinstance(event, RecoverProgress))
        assert len(there) == (state.metadata["batch"] - 1) * each + state.metadata["iteration"]
    for _, _, again in recovered_again(config, begin, parts, events, points):
        assert moving is None or same(pack(moving), pack(again))


def test_moving_statistics_are_the_mean_over_batches(teacher, digits, cpu):
    """A batch's own statistics count 1/B each, as they stand in its last iteration."""
    config = small(ipc=3, recover={"iterations": 1})
    _, real = drive(statistics.measure(config, teacher, digits.train, cpu))
    alone = []
    original = microbatch.batch_moments

    def listen(*args, **kwargs):
        alone.append(original(*args, **kwargs))
        return alone[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microbatch, "batch_moments", listen)
        _, moving = drive(recover.recover(config, teacher, real, digits.train, cpu))
    taps = len(real)
    for tap, moments in enumerate(moving):
        mean = torch.stack([alone[batch * taps + tap].cov_DD.detach() for batch in range(3)]).mean(dim=0)
        torch.testing.assert_close(moments.cov_DD, mean)


def test_relabel(teacher, control, cpu, monkeypatch):
    monkeypatch.setattr(relabel, "RELABEL_BATCH", 8)
    config = everywhere()
    kept = {}

    def begin(saved):
        kept.clear()
        first = 0 if saved is None else saved.metadata["epochs"]
        return relabel.relabel(config, teacher, control, cpu, kept.__setitem__, "random", first)

    events, _, points = left_everywhere(begin)
    whole = dict(kept)
    assert [state.metadata for _, state in points] == [
        {"source": "random", "epochs": epochs} for epochs in (0, 0, 1, 1, 1, 2, 2, 2, 3)
    ]
    for state, _, _ in taken_up(begin, events, points):
        assert list(kept) == list(range(state.metadata["epochs"], 3))
        assert same(kept, {epoch: whole[epoch] for epoch in kept})


STUDENTS = {
    "online, adamw": {"seeds": 2, "epochs": 2},
    "stored, adam": {"optimiser": {"name": "adam"}},
    "averaged, sgd": {"average": 0.7, "optimiser": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "shared CutMix, measured often": {"cutmix": "batch", "evaluate_every": 1, "evaluate_from": 0.0},
    "bfloat16, stored": {"precision": "bfloat16"},
    "together, averaged": {"seeds": 2, "average": 0.7},
    "together, stored, sgd": {"optimiser": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "dropout, averaged": {"students": ["mobilenet_v2"], "epochs": 2, "average": 0.5, "batch": 10},
}


@pytest.mark.parametrize("case", STUDENTS)
def test_validate(teacher, control, digits, cpu, case):
    config = everywhere(validate={"seeds": 1, **STUDENTS[case]}, relabel={"stored_epochs": 2})
    labels = None
    if "stored" in case:
        labels = dict.fromkeys(("distilled", "random"), stages.label(config, teacher, control, cpu)[0])
    test = part_of(digits.test, 50)
    sources = {"distilled": part_of(digits.train, 20), "random": control}

    def begin(saved):
        return validate.validate(config, teacher, sources, test, cpu, labels, saved, together)

    together = ("convnet",) if "together" in case else ()
    events, results, points = left_everywhere(begin)
    students = config.validate_.seeds * len(sources)
    assert len(results) == students
    steps = -(-20 // config.validate_.batch)
    assert len(points) == (1 if together else students) * config.validate_.epochs * steps
    total = students * config.validate_.epochs
    done = [validate.completed_epochs(config, state.metadata) for _, state in points]
    assert done == sorted(done)
    assert done[-1] == total
    for _, _, again in taken_up(begin, events, points):
        assert again == results
    work = validate.validate(unhurried(config), teacher, sources, test, cpu, labels, None, together)
    plain, again = drive(work)
    assert (said(plain), again) == (said(events), results)


def test_a_student_that_an_earlier_version_began_is_finished_alone(teacher, control, digits, cpu):
    config = everywhere(validate={"seeds": 2})
    sources = {"random": control}

    def begin(saved, together=()):
        return validate.validate(config, teacher, sources, digits.test, cpu, None, saved, together)

    _, results, points = left_everywhere(begin)
    (state,) = [state for _, state in points if (state.metadata["epoch"], state.metadata["batch"]) == (1, 1)][
        :1
    ]
    metadata = {key: value for key, value in state.metadata.items() if key != "curves"}
    total = state.tensors["total"].reshape(())
    old = StageState({**state.tensors, "total": total}, {**metadata, "curve": state.metadata["curves"][0]})
    assert validate.completed_epochs(config, old.metadata) == 1
    assert drive(begin(old, ("convnet",)))[1] == results


def test_students_carry_the_fingerprint_of_their_final_network(teacher, control, digits, cpu):
    config = small(validate={"average": 0.7, "seeds": 1})
    student = validate.Students(config, "convnet", [validate.Member(0, "random", control)], cpu)
    label = Labeller(teacher, cpu, "float32")
    _, (result,) = drive(student.train(label, digits.test))
    assert result.weights == backbones.fingerprint(student.average.module)
    assert result.weights != backbones.fingerprint(student.model)


def test_libraries_draw_anew_in_every_batch_and_epoch():
    trainer = Trainer(torch.nn.Linear(1, 1), small().squeeze.optimiser, 2)
    drawn = []

    def loss_of(indices):
        drawn.append(float(torch.rand(())))
        return trainer.model(torch.ones(1, 1))[0]

    for _ in range(2):
        list(trainer.steps(np.arange(6).reshape(3, 2), loss_of, 0, "test"))
        trainer.end_epoch(6)
    assert len(set(drawn)) == 6


def test_what_waits_is_told_before_a_save_point():
    log = EpochLog("squeeze", "convnet", [("teacher", 0)], 9)
    assert list(log.add(0, torch.tensor([1.5]))) == []
    told = [*log.checkpoint(StageState), *log.checkpoint(StageState)]
    assert [event.kind for event in told] == ["EpochFinished", "Checkpoint", "Checkpoint"]
    assert isinstance(told[0], EpochFinished)
    assert told[0].loss == 1.5
