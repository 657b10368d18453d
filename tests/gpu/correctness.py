"""Whether a device computes what float64 on the CPU computes, and goes on bit for bit where it was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import reference
import torch
import torch.nn.functional as F
from harness import Options, Row
from recovery import pull, smooth_images, teacher
from reference import Tap
from torch import Tensor, nn

from engine.backbones.labeller import Labeller
from engine.checkpoint import Checkpoint, StageState, add_prefix
from engine.config import Config, Views, settings
from engine.data import ImageSet, augmentation
from engine.device import conv_precision
from engine.events import BatchRecovered
from engine.methods import build_extensions, gvbsm
from engine.rng import generator
from engine.spectral import recovery_batches
from engine.spectral.moments import Moments, pack
from engine.spectral.taps import Tapped
from engine.stages import recover as recovery
from engine.stages import relabel, statistics, validate

METHODS = ("cfm", "sre2l", "mtt", "dwa", "gvbsm")
AIM = 1e-4  #: relative difference from float64, in float32 without TF32
BETAS = {1: 0.1, 3: 0.05}  #: β of the batches that are compared
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A network and a method whose first step is compared; every batch has one image of each class."""

    config: Config
    model: nn.Module
    train: ImageSet
    names: list[str]
    real: list[Tap]
    earlier: list[Tap]

    def moments(self, taps: Sequence[Tap], device: torch.device) -> list[Moments]:
        """The statistics as the engine takes them."""
        whole = self.config.objective.has_covariance
        pairs = zip(self.names, taps, strict=True)
        found = [
            Moments(
                name, tap.mean, tap.cov.diagonal(), tap.cov if whole else None, tap.flc if whole else None
            )
            for name, tap in pairs
        ]
        return [moments.to(device) for moments in found]


def case(backbone: str, method: str, quick: bool) -> Case:
    """Build a random network with statistics of its own, measured in float64 on images apart."""
    classes = 4 if quick else 10
    sets = [f"backbone.name={backbone}", f"objective={method}", "backbone.also=[]"]
    if quick:
        sets += ["backbone.width=32", "recover.perturb.steps=2"] if method == "dwa" else ["backbone.width=32"]
    config = settings.resolve(preset="cifar10-10", sets=sets).config
    train = smooth_images(4 * classes, 32, classes)
    model = teacher(config, 32, classes)
    goal = config.objective
    names = Tapped(model, goal.taps, CPU, patch=goal.patch).names
    measured = [_taps(config, model, names, train, range(start, start + classes)) for start in (classes, 0)]
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    real = [
        _running(norms[name], tap) if name in norms else tap
        for name, tap in zip(names, measured[0], strict=True)
    ]
    return Case(config, model, train, names, real, measured[1])


def _running(norm: nn.BatchNorm2d, like: Tap) -> Tap:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return Tap(norm.running_mean.double(), torch.diag(norm.running_var.double()), like.flc)


def _taps(
    config: Config, model: nn.Module, names: list[str], train: ImageSet, indices: Sequence[int]
) -> list[Tap]:
    x_MCHW = train.batch(list(indices), CPU).double()
    labels_M = train.labels_N[list(indices)]
    onehot_MK = F.one_hot(labels_M, len(train.classes)).double()
    with torch.no_grad():
        features, _ = reference.read(reference.to_float64(model), names, x_MCHW, config.objective.patch)
    return [reference.measure(x_MDHW, onehot_MK) for x_MDHW in features]


def batch_on_device(
    one: Case,
    number: int,
    device: torch.device,
    precision: str,
    micro_batch: int | None = None,
    low_rank: frozenset[str] | None = None,
) -> recovery.RecoveryBatch:
    """Return the engine's batch of this number, ready for its first step. low_rank: None: as in a run."""
    changes = one.config.recover.model_copy(update={"precision": precision, "micro_batch": micro_batch})
    config = one.config.model_copy(update={"recover": changes})
    network = Tapped(one.model, config.objective.taps, device, changes.precision, config.objective.patch)
    earlier = one.moments(one.earlier, device)
    moves = StageState(add_prefix("moving.0", pack(earlier)) if number > 1 else {})
    extensions = build_extensions(config, one.model, [network], device, moves)
    networks = [(network, one.moments(one.real, device))]
    moving = earlier if config.recover.emu and number > 1 else None
    indices = np.arange(len(one.train.classes))
    return recovery.RecoveryBatch(
        config,
        networks,
        one.train,
        number,
        BETAS[number],
        indices,
        indices,
        moving,
        extensions,
        low_rank=low_rank,
    )


def in_float64(
    one: Case, number: int, start_MCHW: Tensor, masks: reference.Masks | None = None
) -> tuple[float, Tensor]:
    """Return the loss and image gradient of the same step, by `reference`. masks: of its ReLUs."""
    config, settings_ = one.config, one.config.recover
    images = start_MCHW.double().requires_grad_()
    classes = len(one.train.classes)
    labels_M = torch.arange(classes)
    onehot_MK = torch.eye(classes, dtype=torch.float64)
    model = reference.to_float64(one.model)
    rng = generator(config.seed, "recover", number, 0)
    drawn = augmentation.draw(
        recovery_batches.views_at_iteration(config, 0),
        one.train.size,
        classes,
        rng,
        shared=settings_.shared_view,
    )
    view_MCHW = reference.view(images, drawn)
    if settings_.perturb.steps:
        steps, rho = settings_.perturb.steps, settings_.perturb.rho
        model = reference.perturbed(model, view_MCHW.detach(), labels_M, steps, rho)
    model = reference.to_float64(model, masks)
    features, logits_MK = reference.read(model, one.names, view_MCHW, config.objective.patch)
    own = [reference.measure(x_MDHW, onehot_MK) for x_MDHW in features]
    if settings_.emu and number > 1:
        own = [tap.mixed(old, number) for tap, old in zip(own, one.earlier, strict=True)]
    kept = [True] * len(own)
    if settings_.straight_through is not None:
        zero = [Tap(*(torch.zeros_like(x) for x in (tap.mean, tap.cov, tap.flc))) for tap in own]
        before = one.earlier if number > 1 else zero
        alpha = settings_.straight_through
        own = [reference.straight_through(*pair, alpha) for pair in zip(own, before, strict=True)]
        network = Tapped(one.model, config.objective.taps, CPU, patch=config.objective.patch)
        kept = list(gvbsm.draw_kept_taps(network, settings_.drop, config.seed, number, 0))
    loss = F.cross_entropy(logits_MK, labels_M)
    for name, real, tap, read in zip(one.names, one.real, own, kept, strict=True):
        if read:
            first = name.removesuffix(reference.PATCHES) == one.names[0]
            loss = loss + (config.objective.first_tap if first else 1.0) * _terms(config, real, tap, number)
    if settings_.density.weight:
        apart = reference.density(view_MCHW, labels_M, settings_.density.tau)
        loss = loss + settings_.density.weight * apart
    (gradient,) = torch.autograd.grad(loss, images)
    return float(loss.detach()), gradient


def _terms(config: Config, real: Tap, own: Tap, number: int) -> Tensor:
    goal = config.objective
    if goal.method == "cfm":
        return 0.1 * reference.ridge_terms(real, own, BETAS[number])
    if goal.method == "mtt":
        return 0.1 * reference.trajectory_terms(real, own, 10, 5)
    variance, mean = (term.weight for term in goal.terms)
    return reference.variance_terms(real, own, variance, mean)


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, NaN where something is not finite."""
    return float((found.cpu().double() - expected).norm() / expected.norm())


def first_steps(options: Options) -> Iterator[Row]:
    """Compare first steps, Ψ, views and labels with float64."""
    for backbone in ("convnet", "resnet18"):
        for method in METHODS if not options.quick or backbone == "convnet" else ("cfm", "sre2l"):
            one = case(backbone, method, options.quick)
            for number in BETAS:
                yield from _first_step(one, backbone, method, number, options)
    yield from _pooled(options)
    yield from _views(options)
    yield from _labels(options)


def _first_step(one: Case, backbone: str, method: str, number: int, options: Options) -> Iterator[Row]:
    expected = same_side = None
    kinds: list[tuple[str, int | None, frozenset[str] | None]] = [("float32", None, None)]
    if (method, number) == ("cfm", 3):
        kinds.append(("float32", 3, None))  # next to the whole batch, whose ReLU masks it shares
    if (backbone, method) == ("resnet18", "cfm"):  # beside the low-rank form, which a run chooses here
        kinds.append(("float32", None, frozenset()))
    if options.cuda:
        kinds += [("tf32", None, None), ("bfloat16", None, None)]
    for precision, micro_batch, low_rank in kinds:
        batch = batch_on_device(one, number, options.device, precision, micro_batch, low_rank)
        network = batch.turns[0][0].network
        with conv_precision(batch.config.recover.precision), reference.record_masks(network) as masks:
            loss, _ = batch.compute_loss()
            (gradient,) = torch.autograd.grad(loss, batch.images_MCHW)
        start_MCHW = batch.images_MCHW.detach().cpu()
        expected = expected or in_float64(one, number, start_MCHW)
        if micro_batch is None or same_side is None:
            same_side = in_float64(one, number, start_MCHW, masks)
        apart = {
            "loss": abs(float(loss.detach()) - expected[0]) / abs(expected[0]),
            "gradient": relative(gradient, expected[1]),
            "gradient, same ReLUs": relative(gradient, same_side[1]),
        }
        what = f"first step, {backbone}, {method}, batch {number}"
        if micro_batch is not None:
            what += f", micro-batches of {micro_batch}"
        elif batch.unformed:
            what += f", low-rank form at {len(batch.unformed)} taps"
        elif low_rank is not None:
            what += ", dense form"
        yield _row(what, precision, apart)


def _row(what: str, precision: str, apart: dict[str, float]) -> Row:
    """A row of relative differences; only float32 has an aim, and no gradient across the kink of a ReLU."""
    aim = AIM if precision == "float32" else None
    judged = [value for name, value in apart.items() if name != "gradient"]
    ok = None if aim is None else all(value <= aim for value in judged)  # NaN is not ok
    return {"what": what, "precision": precision, **apart, "aim": aim, "ok": ok}


def _pooled(options: Options) -> Iterator[Row]:
    for backbone in ("convnet", "resnet18"):
        sets = [f"backbone.name={backbone}", "backbone.width=32" if options.quick else "backbone.width=128"]
        config = settings.resolve(preset="cifar10-10", sets=sets).config
        train = smooth_images(64 if options.quick else 512)
        model = teacher(config)
        found = pull(statistics.measure(config, model, train, options.device))
        names = [moments.name for moments in found]
        expected = _taps(config, model, names, train, range(len(train)))
        pairs = list(zip(found, expected, strict=True))
        psi = max(relative(moments.cov_DD, tap.cov) for moments, tap in pairs)
        phi = max(relative(moments.flc_DK, tap.flc) for moments, tap in pairs)
        yield _row(f"pooled Ψ of {len(train)} images, {backbone}, the worst tap", "float32", {"value": psi})
        yield _row(f"pooled Φ of {len(train)} images, {backbone}, the worst tap", "float32", {"value": phi})


def _views(options: Options) -> Iterator[Row]:
    images, size = 16, 32
    x_MCHW = smooth_images(images).batch(range(images), CPU)
    kinds = {
        "crop, flip, roll": Views(crop_scale=(0.08, 1.0), flip=True, roll=4),
        "padded crop, flip": Views(padding=4, flip=True),
        "patches, crop": Views(patches=2, crop_scale=(0.5, 1.0)),
    }
    for name, views in kinds.items():
        for shared in (True, False):
            drawn = augmentation.draw(views, size, images, generator(0, "check", name), shared=shared)
            found = augmentation.apply(drawn, x_MCHW.to(options.device))
            expected = reference.view(x_MCHW.double(), drawn)
            what = f"views: {name}, {'one draw' if shared else 'a draw per image'}"
            yield _row(what, "float32", {"value": relative(found, expected)})


def _labels(options: Options) -> Iterator[Row]:
    images = 32 if options.quick else 128
    for backbone in ("convnet", "resnet18"):
        config = settings.resolve(preset="cifar10-10", sets=[f"backbone.name={backbone}"]).config
        config = config.model_copy(update={"validate_": config.validate_.model_copy(update={"epochs": 1})})
        model, train = teacher(config), smooth_images(images)
        views = relabel.FkdViews(config, train, options.device)
        x_MCHW = views.batch(0, np.arange(images))
        with torch.no_grad():
            expected = reference.to_float64(model)(x_MCHW.cpu().double())
        logits_MK = Labeller(model, options.device, "float32")(x_MCHW)
        yield _row(f"FKD logits, {backbone}", "float32", {"value": relative(logits_MK, expected)})
        stored = torch.empty(0)

        def keep(_: int, logits_NK: Tensor) -> None:
            nonlocal stored
            stored = logits_NK

        pull(relabel.relabel(config, model, train, options.device, keep, "check"))
        exact = float((stored == expected.half()).float().mean())
        yield {
            "what": f"FKD labels as stored, {backbone}",
            "precision": "float16",
            "equal": exact,
            "ok": exact > 0.95,
        }


# --- resuming -----------------------------------------------------------------------------------------


def check_resume(options: Options) -> Iterator[Row]:
    """Cut a recovery and a student at a checkpoint, go on, and compare with what was never cut."""
    for backbone in ("convnet", "resnet18"):
        for precision in ("float32", "bfloat16"):
            config = _short(backbone, precision, options)
            yield _compare(f"recovery, {backbone}", precision, *_recovery(config, options))
            yield _compare(f"student, {backbone}", precision, *_student(config, options))


def _short(backbone: str, precision: str, options: Options) -> Config:
    iterations, epochs = (4, 2) if options.quick else (30, 4)
    sets = [f"backbone.name={backbone}", "ipc=2", f"recover.iterations={iterations}", "checkpoint_seconds=0"]
    sets += [f"validate.epochs={epochs}", "validate.batch=10", "validate.seeds=1", "validate.evaluate_from=1"]
    sets += [f"recover.precision={precision}", f"validate.precision={precision}"]
    sets += ["backbone.width=32"] if options.quick else []
    return settings.resolve(preset="cifar10-10", sets=sets).config


def _compare(
    what: str, precision: str, begin: Callable[[StageState | None], Tensor], cut: Callable[[], StageState]
) -> Row:
    """Compare the outcomes of an uncut stage and of a resumed one, and give the reason of a difference."""
    whole, again = begin(None), begin(cut())
    if torch.equal(whole, again):
        return {"what": what, "precision": precision, "resumed": "bit-identical", "ok": True}
    repeated = begin(None)
    apart = relative(again, whole.cpu().double())
    if torch.equal(whole, repeated):
        reason = f"differs by {apart:.2g}, though two uncut ones are equal"
    else:
        reason = (
            f"differs by {apart:.2g}; so do two uncut ones, by {relative(repeated, whole.cpu().double()):.2g}"
        )
    return {"what": what, "precision": precision, "resumed": reason, "ok": False}


def _recovery(
    config: Config, options: Options
) -> tuple[Callable[[StageState | None], Tensor], Callable[[], StageState]]:
    train, model = smooth_images(40), teacher(config)
    real = pull(statistics.measure(config, model, train, options.device))

    def begin(saved: StageState | None) -> Tensor:
        events = recovery.recover(config, model, real, train, options.device, saved)
        *_, last = (event.recovered for event in events if isinstance(event, BatchRecovered))
        assert last is not None
        return torch.from_numpy(last.pixels_MCHW)

    def cut() -> StageState:
        batches = 0
        for event in recovery.recover(config, model, real, train, options.device):
            batches += isinstance(event, BatchRecovered)
            if batches and isinstance(event, Checkpoint):
                state = _stored(event.capture())
                if state.metadata["iteration"] == config.recover.iterations // 2:
                    return state
        raise AssertionError("no checkpoint in the middle of the second batch")

    return begin, cut


def _student(
    config: Config, options: Options
) -> tuple[Callable[[StageState | None], Tensor], Callable[[], StageState]]:
    images, model = smooth_images(20), teacher(config)
    label = Labeller(model, options.device, config.validate_.precision)

    def student() -> validate.Students:
        member = validate.Member(0, "distilled", images)
        return validate.Students(config, config.backbone.name, [member], options.device)

    def begin(saved: StageState | None) -> Tensor:
        one = student()
        pull(one.train(label, images, (), saved))
        return torch.cat([weight.detach().flatten().float() for weight in one.model.state_dict().values()])

    def cut() -> StageState:
        for event in student().train(label, images):
            if isinstance(event, Checkpoint):
                state = _stored(event.capture())
                if (state.metadata["epoch"], state.metadata["batch"]) == (1, 1):
                    return state
        raise AssertionError("no checkpoint in the middle of the second epoch")

    return begin, cut


def _stored(state: StageState) -> StageState:
    """The state as it comes back from a disk."""
    return StageState(
        {name: torch.from_numpy(x.numpy().copy()) for name, x in state.tensors.items()}, state.metadata
    )
