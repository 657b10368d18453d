"""What is no number stops a stage, is named, and is neither kept nor saved."""

import numpy as np
import pytest
import torch
from spoiling import NAN, Nth
from stages import drive, recovered_tensors, small

from engine.checkpoint import Checkpoint
from engine.errors import UserError
from engine.events import BatchRecovered, RecoverProgress, map_events
from engine.runs import artefacts
from engine.spectral import matching, microbatch, moments
from engine.spectral.recovery_batches import control_set
from engine.stages import recover, relabel, squeeze, statistics, training, validate


@pytest.fixture(scope="module")
def real(teacher, digits, cpu):
    return drive(statistics.measure(small(), teacher, digits.train, cpu))[1]


def refused(stage):
    """The message with which a stage stops."""
    with pytest.raises(UserError) as caught:
        drive(stage)
    assert caught.value.kind == "numeric"
    assert caught.value.hint
    return caught.value.message


class Recovery:
    """Two batches of six iterations: what it kept, and how it stops."""

    def __init__(self, teacher, real, digits, cpu, **changes):
        self.kept = {}
        self.events = []
        config = small(**changes)
        self.stage = map_events(recover.recover(config, teacher, real, digits.train, cpu), self.keep)

    def keep(self, event):
        if isinstance(event, BatchRecovered):
            images_MCHW = recovered_tensors(event)[0]
            assert images_MCHW.isfinite().all()
            self.kept[event.batch] = images_MCHW
        yield event

    def stopped(self):
        return refused(self.stage), list(self.kept)


@pytest.mark.parametrize("seconds", [0, 60])
@pytest.mark.parametrize(("call", "where"), [(0, (1, 0)), (8, (2, 2)), (11, (2, 5))])
def test_a_loss(teacher, real, digits, cpu, monkeypatch, call, where, seconds):
    spoilt = Nth(matching.cross_entropy, call, lambda ce: ce * NAN)
    monkeypatch.setattr(matching, "cross_entropy", spoilt)
    message, kept = Recovery(teacher, real, digits, cpu, checkpoint_seconds=seconds).stopped()
    expected = f"the cross-entropy is not finite at batch {where[0]}, iteration {where[1]}, at the network's"
    assert message.startswith(expected)
    assert kept == [1][: where[0] - 1]


def spoil_gradient(x_MCHW):
    x_MCHW.register_hook(lambda gradient: gradient * NAN)
    return x_MCHW


@pytest.mark.parametrize("seconds", [0, 60])
@pytest.mark.parametrize(("call", "where"), [(0, (1, 0)), (8, (2, 2)), (11, (2, 5))])
def test_a_gradient(teacher, real, digits, cpu, monkeypatch, call, where, seconds):
    recovery = Recovery(teacher, real, digits, cpu, checkpoint_seconds=seconds)
    monkeypatch.setattr(recover.augmentation, "apply", Nth(recover.augmentation.apply, call, spoil_gradient))
    message, kept = recovery.stopped()
    assert message == f"the images are not finite after batch {where[0]}, iteration {where[1]}"
    assert kept == [1][: where[0] - 1]


@pytest.mark.parametrize("seconds", [0, 60])
def test_an_image_to_start_from(teacher, real, digits, cpu, monkeypatch, seconds):
    def spoil(images_MCHW):
        images_MCHW[3, 0, 5, 5] = NAN
        return images_MCHW

    monkeypatch.setattr(recover, "clone_to", Nth(recover.clone_to, 1, spoil))
    message, kept = Recovery(teacher, real, digits, cpu, checkpoint_seconds=seconds).stopped()
    assert message == "the images are not finite before batch 2, iteration 0"
    assert kept == [1]


@pytest.mark.parametrize(("seconds", "iteration"), [(0, 3), (60, 5)])
def test_an_image_between_iterations(teacher, real, digits, cpu, monkeypatch, seconds, iteration):
    batches = []
    original = recover.RecoveryBatch.optimise

    def remember(batch, *args):
        batches.append(batch)
        return original(batch, *args)

    def spoilt(stage):
        for event in stage:
            yield event
            if isinstance(event, RecoverProgress) and (event.batch, event.iterations[-1]) == (1, iteration):
                batches[0].images_MCHW.data[3, 0, 5, 5] = NAN

    monkeypatch.setattr(recover.RecoveryBatch, "optimise", remember)
    recovery = Recovery(teacher, real, digits, cpu, checkpoint_seconds=seconds)
    message = refused(spoilt(recovery.stage))
    assert message == f"the images are not finite after batch 1, iteration {iteration}"
    assert recovery.kept == {}


def test_images_that_are_not_finite_are_not_captured(teacher, real, digits, cpu):
    config = small(checkpoint_seconds=0)
    stage = recover.recover(config, teacher, real, digits.train, cpu)
    point = next(event for event in stage if isinstance(event, Checkpoint))
    point.capture()
    point.capture.__self__.images_MCHW.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(UserError, match="not finite after batch 1, iteration 0"):
        point.capture()


@pytest.mark.parametrize("field", ["mean_D", "var_D", "cov_DD"])
def test_a_real_statistic_is_not_called_singular(teacher, real, digits, cpu, field):
    broken = [*real]
    fields = {name: value.clone() for name, value in real[1].tensors().items()}
    fields[field].view(-1)[-1] = NAN
    broken[1] = moments.Moments(real[1].name, **fields)
    message, kept = Recovery(teacher, broken, digits, cpu).stopped()
    assert message == f"the real statistics of layer {real[1].name} are not finite"
    assert kept == []


@pytest.mark.parametrize("field", ["mean_D", "cov_DD"])
@pytest.mark.parametrize(("call", "where"), [(1, (1, 0)), (3 * 8 + 1, (2, 2)), (3 * 11 + 1, (2, 5))])
def test_a_synthetic_statistic_is_not_called_singular(
    teacher, real, digits, cpu, monkeypatch, field, call, where
):
    def spoil(found):
        fields = found.tensors()
        fields[field] = fields[field] * torch.ones_like(fields[field]).index_fill(0, torch.tensor([0]), NAN)
        return moments.Moments(found.name, **fields)

    monkeypatch.setattr(microbatch, "batch_moments", Nth(microbatch.batch_moments, call, spoil))
    message, kept = Recovery(teacher, real, digits, cpu).stopped()
    place = f"batch {where[0]}, iteration {where[1]}"
    assert message == f"the statistics of layer {real[1].name} at {place} are not finite"
    assert kept == [1][: where[0] - 1]


@pytest.mark.parametrize("seconds", [0, 60])
def test_what_was_finite_before_is_still_told(teacher, real, digits, cpu, monkeypatch, seconds):
    monkeypatch.setattr(matching, "cross_entropy", Nth(matching.cross_entropy, 8, lambda ce: ce * NAN))
    events = []
    with pytest.raises(UserError):
        events.extend(Recovery(teacher, real, digits, cpu, checkpoint_seconds=seconds).stage)
    chunks = [event for event in events if isinstance(event, RecoverProgress)]
    told = [(event.batch, iteration) for event in chunks for iteration in event.iterations]
    assert told == [*((1, iteration) for iteration in range(6)), (2, 0), (2, 1)]
    assert np.isfinite([value for event in chunks for value in event.ce]).all()


def test_a_feature_while_statistics_are_measured(teacher, digits, cpu, monkeypatch):
    def spoil(found):
        return moments.Moments(found.name, found.mean_D, found.var_D, found.cov_DD * NAN, found.flc_DK)

    config = small(checkpoint_seconds=0, statistics={"batch": 100})
    monkeypatch.setattr(moments, "_measure_batch", Nth(moments._measure_batch, 4, spoil))
    stage = statistics.measure(config, teacher, digits.train, cpu)
    points = [event for event in (next(stage) for _ in range(4)) if isinstance(event, Checkpoint)]
    with pytest.raises(UserError, match=r"over 200 images of layer layers.conv.1 are not finite"):
        points[-1].capture()
    message = refused(stage)
    assert message == f"the statistics over {len(digits.train)} images of layer layers.conv.1 are not finite"


def begin_squeeze(digits, cpu, **changes):
    config = small(squeeze={"epochs": 2, "batch": 500}, **changes)
    return squeeze.squeeze(config, artefacts.build_network(config, digits), digits.train, cpu)


def begin_validate(teacher, digits, cpu, **changes):
    config = small(validate={"epochs": 2, "batch": 10, "seeds": 1}, **changes)
    sources = {"random": control_set(config, digits.train)}
    return validate.validate(config, teacher, sources, digits.test, cpu)


def spoil_loss(monkeypatch, stage, call):
    if stage == "squeeze":
        spoilt = Nth(torch.nn.functional.cross_entropy, call, lambda loss: loss * NAN)
        monkeypatch.setattr(squeeze.F, "cross_entropy", spoilt)
    else:
        monkeypatch.setattr(
            validate, "student_loss", Nth(validate.student_loss, call, lambda loss: loss * NAN)
        )


@pytest.mark.parametrize("stage", ["squeeze", "validate"])
def test_a_loss_in_training_names_its_epoch_and_is_not_captured(teacher, digits, cpu, monkeypatch, stage):
    def begin(**changes):
        if stage == "squeeze":
            return begin_squeeze(digits, cpu, **changes)
        return begin_validate(teacher, digits, cpu, **changes)

    with monkeypatch.context() as patch:
        spoil_loss(patch, stage, 0)
        assert f"became nan in epoch 1 of {stage}" in refused(begin())
    with monkeypatch.context() as patch:
        spoil_loss(patch, stage, 0)
        point = next(event for event in begin(checkpoint_seconds=0) if isinstance(event, Checkpoint))
        with pytest.raises(
            UserError, match=f"the loss of .* in epoch 1, after 1 batches of {stage}"
        ) as caught:
            point.capture()
        assert caught.value.kind == "numeric"


@pytest.mark.parametrize("stage", ["squeeze", "validate"])
def test_weights_that_only_the_last_step_spoilt(teacher, digits, cpu, monkeypatch, stage):
    monkeypatch.setattr(training.Trainer, "end_epoch", spoil_weights(training.Trainer.end_epoch))
    begin = begin_squeeze(digits, cpu) if stage == "squeeze" else begin_validate(teacher, digits, cpu)
    assert refused(begin).endswith(f"seed 0) at the end of {stage} is not finite")


def spoil_weights(original):
    def end_epoch(trainer, images):
        if trainer.epoch == trainer.epochs - 1:
            with torch.no_grad():
                next(trainer.model.parameters())[0] = NAN
        return original(trainer, images)

    return end_epoch


def test_labels_that_do_not_fit_their_type(teacher, digits, cpu, monkeypatch):
    control = control_set(small(), digits.train)
    monkeypatch.setattr(relabel.Labeller, "__call__", lambda self, x_MCHW: torch.full((len(x_MCHW), 10), 1e6))
    kept = []
    stage = relabel.relabel(small(), teacher, control, cpu, lambda *given: kept.append(given), "random")
    assert "for random image 0 in epoch 1" in refused(stage)
    assert kept == []


def test_a_squared_gradient_that_overflowed_does_no_harm(teacher, real, digits, cpu):
    config = small(checkpoint_seconds=0)
    stage = recover.recover(config, teacher, real, digits.train, cpu)
    point = next(event for event in stage if isinstance(event, Checkpoint))
    batch = point.capture.__self__
    batch.adam.state[batch.images_MCHW]["exp_avg_sq"][0, 0, 0, 0] = np.inf
    assert point.capture().tensors["optimiser.0.exp_avg_sq"][0, 0, 0, 0] == np.inf
    drive(stage)
