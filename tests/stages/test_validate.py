"""Relabelling and validation: labels do not depend on batches, students on nothing but their keys."""

import copy

import numpy as np
import pytest
import stages
import torch
import torch.nn.functional as F
from stages import drive, small

from engine.backbones.labeller import Labeller
from engine.config import Optimiser, Validate
from engine.events import EpochFinished, SubsetEvaluated
from engine.runs import artefacts
from engine.spectral import recovery_batches
from engine.stages import relabel, squeeze, training, validate
from engine.store.cache import key


@pytest.fixture
def control(digits):
    return recovery_batches.control_set(small(), digits.train)


def train(config, teacher, control, digits, cpu, labels=None):
    sources = {"random": control}
    return drive(validate.validate(config, teacher, sources, digits.test, cpu, labels))


def test_results_carry_every_seed_with_last_and_best(teacher, control, digits, cpu):
    config = small(validate={"epochs": 4, "evaluate_every": 2, "evaluate_from": 0.25})
    events, results = drive(
        validate.validate(config, teacher, {"distilled": control, "random": control}, digits.test, cpu)
    )
    assert [(r.source, r.seed) for r in results] == [
        ("distilled", 0), ("random", 0), ("distilled", 1), ("random", 1),
    ]  # fmt: skip
    for result in results:
        assert [epoch for epoch, _ in result.curve] == [2, 4]
        assert result.last == result.curve[-1][1]
        assert result.best == max(value for _, value in result.curve)
    # The same images under another name give the same student: nothing depends on what ran before.
    assert [r.curve for r in results if r.source == "random"] == [
        r.curve for r in results if r.source == "distilled"
    ]
    epochs = [e for e in events if isinstance(e, EpochFinished)]
    assert len(epochs) == 4 * 4


def test_students_differ_between_seeds_and_repeat_exactly(teacher, control, digits, cpu):
    config = small()
    first, _ = train(config, teacher, control, digits, cpu)
    again, _ = train(config, teacher, control, digits, cpu)
    assert [e.loss for e in first] == [e.loss for e in again]
    by_seed = {e.seed: e.loss for e in first}
    assert by_seed[0] != by_seed[1]


@pytest.mark.parametrize("mode", ["online", "stored"])
def test_students_trained_together_learn_what_they_learn_alone(teacher, control, digits, cpu, mode):
    """After one epoch of several batches, within 1e-5; each from its own images, views and labels."""
    config = small(validate={"epochs": 1, "seeds": 2, "batch": 8}, relabel={"mode": mode})
    sources = {"distilled": recovery_batches.control_set(config, digits.train, "start"), "random": control}
    labels = None
    if mode == "stored":
        labels = {name: stages.label(config, teacher, images, cpu)[0] for name, images in sources.items()}

    def students(together):
        models = []

        def build(*arguments):
            models.append(original(*arguments))
            return models[-1]

        original = validate.Students
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validate, "Students", build)
            work = validate.validate(config, teacher, sources, digits.test, cpu, labels, None, together)
            events, results = drive(work)
        return models, events, results

    apart, events_apart, alone = students(())
    (stacked,), events_together, together = students(("convnet",))
    assert [(r.source, r.seed) for r in together] == [(r.source, r.seed) for r in alone]
    x = digits.test.batch(range(100), cpu)
    logits = stacked.model.eval()(x.repeat(1, 4, 1, 1)).transpose(0, 1)
    for number, each in enumerate(apart):
        torch.testing.assert_close(logits[number], each.model.eval()(x), rtol=0, atol=1e-5)
        for name, value in each.model.state_dict().items():
            if not name.startswith("layers.conv") or name.endswith("weight"):  # BatchNorm cancels a bias
                found = stacked.model.member_state(number)[name]
                torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)
    losses = [
        [event.loss for event in events if isinstance(event, EpochFinished)]
        for events in (events_apart, events_together)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5, abs=1e-7)
    assert [r.last for r in together] == pytest.approx([r.last for r in alone], abs=0.5)
    assert len({r.weights for r in together}) == 4


def test_stored_labels_depend_neither_on_batch_size_nor_on_order(teacher, control, cpu, monkeypatch):
    config = small(relabel={"mode": "stored"})
    _, whole = stages.label(config, teacher, control, cpu)
    monkeypatch.setattr(relabel, "RELABEL_BATCH", 7)
    _, parts = stages.label(config, teacher, control, cpu)
    assert whole.dtype == torch.float16
    assert whole.shape == (3, 20, 10)
    torch.testing.assert_close(whole, parts, rtol=2e-3, atol=2e-3)
    views, label = relabel.FkdViews(config, control, cpu), Labeller(teacher, cpu, "float32")
    order = np.random.default_rng(0).permutation(20)
    torch.testing.assert_close(
        label(views.batch(2, order)).half(),
        whole[2][torch.from_numpy(order)],
        rtol=2e-3,
        atol=2e-3,
    )


def test_stored_and_online_labels_train_the_same_student(teacher, control, digits, cpu):
    config = small(validate={"seeds": 1})
    stored, _ = stages.label(config, teacher, control, cpu)
    by_store, _ = train(config, teacher, control, digits, cpu, {"random": stored})
    online = validate.Students(config, "convnet", [validate.Member(0, "random", control)], cpu)
    views, label = relabel.FkdViews(config, control, cpu), Labeller(teacher, cpu, "float32")
    trainer = training.Trainer(online.model, config.validate_.optimiser, 3)
    for expected in by_store:
        assert list(online.epoch(trainer, [views], label)) == [None] * (len(views.batches(0)) - 1)
        assert float(trainer.end_epoch(len(control))) == pytest.approx(expected.loss, rel=0.02)


def test_a_pruned_store_reuses_its_epochs(teacher, control, digits, cpu):
    config = small(relabel={"mode": "stored", "stored_epochs": 2})
    stored, _ = stages.label(config, teacher, control, cpu)
    assert stored.epochs == 2
    assert [stored.epoch(e) for e in range(5)] == [0, 1, 0, 1, 0]
    _, results = train(config, teacher, control, digits, cpu, {"random": stored})
    assert len(results) == 2


def test_labels_are_the_teachers_logits_on_the_plain_view(teacher, control, cpu):
    config = small(validate={"views": {}, "cutmix": "none"})
    _, logits_ENK = stages.label(config, teacher, control, cpu)
    expected = teacher(control.batch(range(20), cpu))
    torch.testing.assert_close(logits_ENK[0].float(), expected, rtol=2e-3, atol=2e-3)


def test_labels_of_a_teacher_in_training_mode_are_those_of_the_students_batches(teacher, control, cpu):
    config = small(validate={"batch": 8, "teacher_batchnorm": "batch"})
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    views = relabel.FkdViews(config, control, cpu)
    _, logits_ENK = stages.label(config, teacher, control, cpu)
    training_copy = copy.deepcopy(teacher).train()
    for batch in views.batches(1):
        with torch.no_grad():
            expected = training_copy(views.batch(1, batch))
        torch.testing.assert_close(logits_ENK[1][batch].float(), expected, rtol=2e-3, atol=2e-3)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_students_learn_from_mixed_images_and_their_own_class(teacher, control, digits, cpu):
    settings = {"loss": "mse", "ce_weight": 0.5, "mixup": 0.8, "cutmix": "none", "batch": 20, "epochs": 1}
    config = small(validate={**settings, "seeds": 1})
    student = validate.Students(config, "convnet", [validate.Member(0, "random", control)], cpu)
    before = copy.deepcopy(student.model).train()
    views, label = relabel.FkdViews(config, control, cpu, 1), Labeller(teacher, cpu, "float32")
    (batch,), (drawn, mix) = views.batches(0), views.draw(0)
    plain, partner = (control.batch(at, cpu, drawn.take(at)) for at in (batch, mix.partner_M[batch]))
    share = float(mix.share_M[0])
    x = share * plain + (1 - share) * partner
    torch.testing.assert_close(views.batch(0, batch), x)
    with torch.no_grad():
        logits, labels = before(x), control.labels_N[batch]
        wanted = F.mse_loss(logits, label(x)) + 0.5 * F.cross_entropy(logits, labels)
    events, _ = drive(student.train(label, digits.test))
    assert events[0].loss == pytest.approx(float(wanted), rel=1e-5)


def test_norms_and_biases_decay_unless_they_are_left_out():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    weights = dict(model.named_parameters())
    for both in (True, False):
        optimiser = training.Trainer(model, Optimiser(decay_norm_and_bias=both), 1).optimiser
        decays = {
            id(weight): group["weight_decay"]
            for group in optimiser.param_groups
            for weight in group["params"]
        }
        found = {name: decays[id(weight)] for name, weight in weights.items()}
        assert found == {name: 5e-4 if both or name == "0.weight" else 0.0 for name in weights}


def test_averaged_weights_are_the_mean_of_the_last_epochs(teacher, control, digits, cpu):
    config = small(validate={"epochs": 4, "average": 0.5, "seeds": 1})
    student = validate.Students(config, "convnet", [validate.Member(0, "random", control)], cpu)
    seen = []
    original = student._update_average

    def remember(epoch):
        seen.append(student.model.state_dict()["classifier.weight"].clone())
        original(epoch)

    student._update_average = remember
    label = Labeller(teacher, cpu, "float32")
    drive(student.train(label, digits.test))
    averaged = student.average.module.state_dict()["classifier.weight"]
    torch.testing.assert_close(averaged, (seen[2] + seen[3]) / 2)


def test_accuracy_counts_right_answers_and_leaves_the_model_alone(teacher, digits, cpu):
    teacher.train()
    found = training.evaluate_accuracy(teacher, digits.test, cpu)
    assert teacher.training
    teacher.eval()
    with torch.no_grad():
        right = teacher(digits.test.batch(range(len(digits.test)), cpu)).argmax(1) == digits.test.labels_N
    assert found == pytest.approx(100.0 * right.float().mean().item())


def test_a_last_batch_of_one_joins_its_neighbour():
    parts = training.split_batches(np.arange(11), 5)
    assert [len(part) for part in parts] == [5, 6]
    assert np.concatenate(parts).tolist() == list(range(11))
    assert [len(part) for part in training.split_batches(np.arange(1), 5)] == [1]


def test_a_student_that_learns_approaches_its_teacher(digits, cpu):
    """Trained on every real image under soft labels, a student agrees with a teacher that is worth it."""
    config = small(
        squeeze={"epochs": 6, "optimiser": {"lr": 0.05}},
        validate={"epochs": 6, "seeds": 1, "batch": 64, "views": {}, "cutmix": "none", "temperature": 1.0},
    )
    _, taught = drive(squeeze.squeeze(config, artefacts.build_network(config, digits), digits.train, cpu))
    _, (result,) = drive(validate.validate(config, taught, {"distilled": digits.train}, digits.test, cpu))
    reached = training.evaluate_accuracy(taught, digits.test, cpu)
    assert reached > 90
    assert result.last > reached - 10


def test_a_teacher_trained_in_bfloat16_is_another_with_weights_in_float32(digits, cpu):
    plain, rounded = (small(squeeze={"epochs": 1, "precision": name}) for name in ("float32", "bfloat16"))
    assert artefacts.teacher_key(plain, digits) != artefacts.teacher_key(rounded, digits)
    settings = plain.squeeze.model_dump(
        mode="json", exclude={"precision": True, "optimiser": {"warmup_epochs", "decay_norm_and_bias"}}
    )  # as teachers are filed already
    backbone = plain.backbone.model_dump(
        mode="json", exclude={"teacher", "also", "also_teachers", "also_norm"}
    )
    parts = {"format": artefacts.TEACHER_FORMAT, "seed": plain.seed, "data": digits.fingerprint}
    assert artefacts.teacher_key(plain, digits) == key(**parts, backbone=backbone, squeeze=settings)

    def trained(config):
        model = artefacts.build_network(config, digits)
        return drive(squeeze.squeeze(config, model, digits.train, cpu))[1].state_dict()

    one, other = trained(plain), trained(rounded)
    floats = {name: value for name, value in other.items() if value.is_floating_point()}
    assert {value.dtype for value in floats.values()} == {torch.float32}
    gaps = [float((one[name] - value).norm() / one[name].norm()) for name, value in floats.items()]
    assert 0 < max(gaps) < 0.2


def test_the_first_measurement_is_after_epoch_810_of_1000():
    settings = Validate(epochs=1000, evaluate_every=10, evaluate_from=0.8)
    measured = [epoch + 1 for epoch in range(1000) if validate.is_measured_epoch(settings, epoch)]
    assert measured == list(range(810, 1001, 10))
    last = Validate(epochs=7, evaluate_every=10, evaluate_from=1.0)
    assert [epoch for epoch in range(7) if validate.is_measured_epoch(last, epoch)] == [6]


@pytest.mark.parametrize("setting", [{"loss_scale": "t2"}, {"stem_init": "pytorch"}])
def test_students_train_with_the_scale_and_start_from_the_weights_of_the_settings(
    teacher, control, digits, cpu, setting
):
    students = {"students": ["resnet18"], "seeds": 1, "epochs": 1}
    optimiser = {"name": "sgd", "lr": 0.1}
    weights = []
    for changes in ({}, setting):
        config = small(validate={**students, "optimiser": optimiser, **changes})
        _, (result,) = train(config, teacher, control, digits, cpu)
        weights.append(result.weights)
    assert weights[0] != weights[1]


# --- accuracies during training ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (7, 7), (10, 10), (25, 25), (500, 179), (10**6, 179)])
def test_a_subset_has_as_many_images_of_each_class_as_possible(count, wanted):
    labels_N = np.repeat(np.arange(10), [18] * 9 + [17])
    chosen = training.choose_subset(labels_N, count)
    assert len(chosen) == len(set(chosen.tolist())) == wanted
    assert np.ptp(np.bincount(labels_N[chosen], minlength=10)) <= 1
    assert np.array_equal(chosen, training.choose_subset(labels_N, count))


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


def test_measurements_take_two_percent_of_the_time_of_training(digits, cpu, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    measured = []

    def evaluate(*_):
        clock.now += 0.5
        measured.append(clock.now)
        return [50.0]

    monkeypatch.setattr(training, "evaluate_accuracies", evaluate)
    evaluator = training.SubsetEvaluator(digits.test, 100, cpu)

    def steps():  # the last step of an epoch ends it
        for step in range(4):
            clock.now += 0.25
            if step < 3:
                yield

    trained = 0.0
    for _ in range(201):
        for _ in evaluator.watch(steps()):
            clock.now += 1000.0  # the run is paused, which is not training
        trained += 1.0
        before = len(measured)
        result = evaluator.evaluate(torch.nn.Identity())
        assert result == ((100, [50.0]) if len(measured) > before else None)
        assert 0.5 * len(measured) <= max(0.02 * trained + 1e-9, 0.5)
    assert len(measured) == 8


def test_early_accuracies_are_those_of_the_subset_and_change_no_student(
    teacher, control, digits, cpu, monkeypatch
):
    """Of a network with BatchNorm, averaged weights and dropout, measured after every epoch or never."""
    monkeypatch.setattr(training.SubsetEvaluator, "SHARE", 1e9)

    def trained(**settings):
        settings = {"epochs": 4, "average": 0.5, "students": ["mobilenet_v2"], **settings}
        return train(small(validate=settings), teacher, control, digits, cpu)

    found = {}
    for count in (0, 30, 10**6):
        state = torch.random.get_rng_state()
        found[count] = trained(preview_images=count)
        assert torch.equal(state, torch.random.get_rng_state())
    assert found[0][1] == found[30][1] == found[10**6][1]
    for count, images in ((0, 0), (30, 30), (10**6, len(digits.test))):
        events = [event for event in found[count][0] if isinstance(event, SubsetEvaluated)]
        assert [(e.seed, e.epoch) for e in events] == [(s, n) for s in (0, 1) for n in (1, 2, 3) if count]
        assert {event.images for event in events} <= {images}
    losses = [[e.loss for e in found[n][0] if isinstance(e, EpochFinished)] for n in (0, 30)]
    assert losses[0] == losses[1]
    _, full = trained(evaluate_from=0.0, evaluate_every=1)
    shown = [event.accuracy for event in found[10**6][0] if isinstance(event, SubsetEvaluated)]
    assert shown == [accuracy for result in full for _, accuracy in result.curve[:3]]


def test_early_accuracies_of_a_teacher_do_not_change_it(digits, cpu, monkeypatch):
    monkeypatch.setattr(training.SubsetEvaluator, "SHARE", 1e9)
    config, states = small(squeeze={"epochs": 2}), {}
    for count in (0, 50):
        evaluator = training.SubsetEvaluator(digits.test, count, cpu)
        network = artefacts.build_network(config, digits)
        events, model = drive(squeeze.squeeze(config, network, digits.train, cpu, None, evaluator))
        states[count] = model.state_dict()
        shown = [event for event in events if isinstance(event, SubsetEvaluated)]
        wanted = [("squeeze", "teacher", epoch, 50) for epoch in (1, 2) if count]
        assert [(e.stage, e.source, e.epoch, e.images) for e in shown] == wanted
    assert all(torch.equal(states[0][name], states[50][name]) for name in states[0])
