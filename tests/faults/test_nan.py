"""NaN, wherever it comes up in a whole run: its place is named, and nothing that is kept has any."""

import itertools
import re

import numpy as np
import pytest
import tiny
import torch
from cases import chosen
from cut import amiss, emptied, lost, pulled, taken_up
from spoiling import NAN, Nth

from engine.errors import UserError
from engine.spectral import matching, microbatch, moments
from engine.stages import recover, squeeze, validate
from engine.store import StoredRun, checkpoints, images, lock, metrics
from engine.store.rows import Rows, partial

BATCHES, ITERATIONS = 2, tiny.SETTINGS["recover"]["iterations"]
STEPS = range(BATCHES * ITERATIONS)
LAYERS = ("layers.conv.0", "layers.conv.1", "layers.conv.2")
FIELDS = ("mean_D", "cov_DD")  # of a batch of synthetic images; its variances are the diagonal of cov_DD
SECONDS = (0, 60)  # a checkpoint at every opportunity, or at each batch's end only
READ = range(2)  # batches of real images


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert pulled(folder).error is None
    return tiny.outcome(folder)


def at(step):
    return f"batch {step // ITERATIONS + 1}, iteration {step % ITERATIONS}"


def spoil_field(field):
    def spoil(found):
        fields = found.tensors()
        mask = torch.ones_like(fields[field])
        mask.view(-1)[-1] = NAN
        fields[field] = fields[field] * mask
        return moments.Moments(found.name, **fields)

    return spoil


def spoil_image(images_MCHW):
    images_MCHW[1, 0, 5, 5] = NAN
    return images_MCHW


def spoil(patch, fault, place):
    """Let a number become NaN; returns what the message is to say, as a regular expression."""
    if fault == "the loss":
        patch.setattr(matching, "cross_entropy", Nth(matching.cross_entropy, place, lambda ce: ce * NAN))
        return f"the cross-entropy is not finite at {at(place)}, at the network's output"
    if fault == "a gradient":
        patch.setattr(
            recover.RecoveryBatch, "step", before(recover.RecoveryBatch.step, place, spoil_gradients)
        )
        return f"the images are not finite after {at(place)}"
    if fault == "an image at the start":
        patch.setattr(
            recover.RecoveryBatch, "__init__", after(recover.RecoveryBatch.__init__, place, spoil_images)
        )
        return f"the images are not finite before {at(place * ITERATIONS)}"
    if fault == "an image":
        patch.setattr(recover.RecoveryBatch, "step", after(recover.RecoveryBatch.step, place, spoil_images))
        return f"the images are not finite after {at(place)}"
    if fault == "a real statistic":
        batch, layer, field = place
        call = batch * len(LAYERS) + LAYERS.index(layer)
        patch.setattr(moments, "_measure_batch", Nth(moments._measure_batch, call, spoil_field(field)))
        return f"the statistics over [0-9]+ images of layer {layer} are not finite"
    if fault == "a synthetic statistic":
        step, layer, field = place
        patch.setattr(
            microbatch,
            "batch_moments",
            Nth(microbatch.batch_moments, step * len(LAYERS) + LAYERS.index(layer), spoil_field(field)),
        )
        return f"the statistics of layer {layer} at {at(step)} are not finite"
    if fault == "a teacher's loss":
        patch.setattr(
            squeeze.F, "cross_entropy", Nth(squeeze.F.cross_entropy, place, lambda loss: loss * NAN)
        )
        return r"the loss of convnet \(teacher, seed 0\) .*in epoch [12].* of squeeze.*"
    patch.setattr(validate, "student_loss", Nth(validate.student_loss, place, lambda loss: loss * NAN))
    return r"the loss of convnet \((distilled|random), seed 0\) .*in epoch [12].* of validate.*"


def before(original, number, work):
    """A method before whose call number `number` (from 0) some work is done on its object."""
    calls = itertools.count()

    def call(batch, *args, **options):
        if next(calls) == number:
            work(batch)
        return original(batch, *args, **options)

    return call


def after(original, number, work):
    """A method whose call number `number` (from 0) is followed by some work on its object."""
    calls = itertools.count()

    def call(batch, *args, **options):
        found = original(batch, *args, **options)
        if next(calls) == number:
            work(batch)
        return found

    return call


def spoil_images(batch):
    spoil_image(batch.images_MCHW.data)


def spoil_gradients(batch):
    batch.images_MCHW.register_hook(lambda gradient: spoil_image(gradient.clone()))


PLACES = {
    "the loss": STEPS,
    "a gradient": STEPS,
    "an image at the start": range(BATCHES),
    "an image": STEPS,
    "a real statistic": [(b, layer, f) for b in READ for layer in LAYERS for f in (*FIELDS, "flc_DK")],
    "a synthetic statistic": [(s, layer, f) for s in STEPS for layer in LAYERS for f in FIELDS],
    "a teacher's loss": range(4),
    "a student's loss": range(8),
}


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("fault", PLACES)
def test_a_number_that_is_none(quick_folder, monkeypatch, tally, whole, fault, seconds):
    plan = tiny.plan(checkpoint_seconds=seconds)
    for place in chosen(PLACES[fault], few=2, seed=seconds):
        folder = emptied(quick_folder / "case")
        with monkeypatch.context() as patch:
            said = spoil(patch, fault, place)
            told = pulled(folder, plan=plan)
        why = wrongly_stopped(folder, told, said) or poisoned(folder, told)
        again, used = taken_up(monkeypatch, folder, plan)
        why = why or amiss(folder, again, whole) or lost(told, again, used)
        tally(f"NaN in {fault}", not why, f"{place}, every {seconds} s: {why}")
    tally.done()


def wrongly_stopped(folder, told, said):
    """What is wrong with how the run ended; empty for nothing."""
    if not isinstance(told.error, UserError) or told.error.kind != "numeric" or not told.error.hint:
        return f"it ended with {told.error!r}"
    if not re.fullmatch(said, told.error.message):
        return f"it says {told.error.message!r} instead of {said!r}"
    status = StoredRun(folder / "run").status()
    if (status["state"], status["message"]) != ("failed", told.error.message):
        return f"its status is {status}"
    return ""


def poisoned(folder, told):
    """What of the images and records before is not intact, and what is kept that is not finite."""
    run, wrong = folder / "run", []
    if told.images:
        done = images.is_complete(run / "images")
        place = run / "images" / images.TENSORS
        table = Rows(place if done else partial(place))
        wrong += [f"image {row} is damaged" for row in table.damaged_rows(told.images)]
        if not np.isfinite(table.read(0, told.images)["images"]).all():
            wrong.append("an image that was kept is not finite")
    for number, path in checkpoints.Checkpoints(run / "checkpoints").paths():
        wrong += [
            f"{name} in {path.name} is not finite"
            for name, values in checkpoints.Saved.read(path, number).arrays.items()
            if not np.isfinite(values).all()
        ]
    table = run / "metrics" / "recover.f32"
    if table.exists() and not np.isfinite(metrics.read(table)[1]).all():
        wrong.append("a number in the table is not finite")
    return "; ".join(wrong)
