"""The typed tree of all settings of an experiment. It is immutable; its comments document every setting.

The defaults are those of the embedded `digits` set under the `cfm` protocol. Presets and protocols are YAML
files; `settings` merges them into one such tree.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.config.fields import (
    BackboneName,
    Centre,
    ControlName,
    Decay,
    Fraction,
    Node,
    PathText,
    Pixels,
    Positive,
    Precision,
    Scale,
    Threads,
)
from engine.config.objective import Objective


class Data(Node):
    """The data set and how it is read."""

    name: Literal["digits", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "folder"] = "digits"
    root: PathText | None = None  #: folder with the data set; None: the user's data folder
    image_size: Annotated[int, Field(ge=16, le=4096)] | None = None  #: side in pixels; None: that of the set
    mean: tuple[float, ...] | None = None  #: mean per channel, in [0, 1]; None: that of the set
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None  #: std per channel; None: that of the set
    #: side to which the shorter side of training images is resized before the central image_size pixels are
    #: cropped; None: the largest centred square is resized to image_size
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None
    test_resize: Annotated[int, Field(ge=16, le=4096)] | None = None  #: the same for test images
    test: Literal["test", "holdout"] = "test"  #: evaluate on the test split or on held-out training images
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1  #: fraction held out if there is no test split
    on_bad_image: Literal["refuse", "skip"] = "refuse"  #: on an unreadable image, fail or skip it
    #: class names in the order of the teacher's outputs, or a text file with one a line; None: sorted
    class_order: tuple[str, ...] | PathText | None = None

    @field_validator("class_order", mode="before")
    @classmethod
    def _require_names_or_path(cls, value: object) -> object:
        if value is None or isinstance(value, str):
            return value
        names = (
            [str(each) if type(each) is int else each for each in value]
            if isinstance(value, list | tuple)
            else []
        )
        if not names or not all(isinstance(each, str) for each in names):
            raise ValueError("give a list of class names, or the path of a text file with one name a line")
        if twice := [each for each, count in Counter(names).items() if count > 1]:
            raise ValueError(f"it lists {twice[0]!r} twice")
        return tuple(names)

    @model_validator(mode="after")
    def _require_one_value_per_channel(self) -> Data:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, 3):
                raise ValueError(f"{name} has {len(values)} values; give one per channel, 1 or 3")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
        return self

    @model_validator(mode="after")
    def _require_sides_that_contain_the_crop(self) -> Data:
        for name, side in (("resize", self.resize), ("test_resize", self.test_resize)):
            if side is not None and self.name == "digits":
                raise ValueError(f"{name} = {side} has no effect on the digits; set it to null")
            if side is not None and self.image_size is not None and side < self.image_size:
                raise ValueError(
                    f"{name} = {side} is smaller than image_size = {self.image_size}; set {name} to"
                    f" {self.image_size} or more, or to null"
                )
        return self


class Backbone(Node):
    """The network that images are distilled through, and the source of its weights."""

    name: BackboneName = "convnet"  #: architecture
    depth: Annotated[int, Field(ge=1, le=8)] | None = None  #: ConvNet blocks; None: 3 below 64 px, else 4
    width: Annotated[int, Field(ge=1, le=65536)] = 128  #: channels per ConvNet block
    norm: Literal["batch", "instance"] = "batch"  #: ConvNet normalisation
    also_norm: Literal["batch", "instance"] | None = None  #: that of a ConvNet in `also`; None: the same
    teacher: PathText | None = None  #: checkpoint file or torchvision:WEIGHTS; None: train one
    also: tuple[BackboneName, ...] = ()  #: more networks, used in turn; `name` may be listed and counts once
    also_teachers: tuple[PathText, ...] = ()  #: teachers of `also`, in order; empty: train them

    @model_validator(mode="after")
    def _require_distinct_networks(self) -> Backbone:
        if len(set(self.also)) < len(self.also):
            raise ValueError(f"also lists a network twice: {list(self.also)}")
        return self


class Optimiser(Node):
    """The optimiser of network weights. The learning rate follows `schedule` over all epochs."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"  #: algorithm
    lr: Annotated[float, Field(gt=0)] = 0.1  #: initial learning rate
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  #: momentum of SGD
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  #: weight decay
    decay_norm_and_bias: bool = True  #: weight decay also on normalisation layers and biases
    schedule: Literal["cosine", "half-cosine", "step", "constant"] = "cosine"  #: learning rate schedule
    step_epochs: Positive = 30  #: epochs after which `step` divides lr by ten, each time
    warmup_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0  #: lr first rises from 0 over so many epochs


class Views(Node):
    """Augmentation: random views of an image by patch shuffling, cropping, flipping and rolling."""

    patches: Annotated[int, Field(ge=1, le=64)] = 1  #: first shuffle the image's patches×patches tiles (RDED)
    crop_scale: Scale | None = None  #: area range of RandomResizedCrop; None: no resized crop
    padding: Pixels = 0  #: pixels of black border for RandomCrop
    flip: bool = False  #: flip horizontally with probability 1/2
    roll: Pixels = 0  #: shift cyclically by 0 to `roll` pixels along both axes
    roll_both_ways: bool = False  #: shift by −roll to roll pixels instead

    @model_validator(mode="after")
    def _require_ordered_crop_scale(self) -> Views:
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale must be [low, high], not {list(self.crop_scale)}")
        return self


class Squeeze(Node):
    """Training of the teacher (UniDD Table 8)."""

    epochs: Positive = 30  #: training epochs
    batch: Positive = 128  #: batch size
    optimiser: Optimiser = Optimiser()
    views: Views = Views(padding=2)
    precision: Precision = "float32"  #: precision of the forward passes (autocast)


class Statistics(Node):
    """Statistics of the real images: Ψ and Φ of every tap over the training set (UniDD Eq. 17)."""

    estimator: Literal["pooled", "batched"] = "pooled"  #: over the whole set, or mean over batches
    batch: Positive = 128  #: batch size; changes only the results of `batched`
    order: Literal["file", "mixed"] = "file"  #: mixed: seeded shuffle; used only by `batched`
    centre: Centre = "set"  #: what is subtracted for Ψ: the mean of all images, or each image's own
    views: Views = Views()  #: random views of the images that are measured (G-VBSM)

    def pooled(self) -> Statistics:
        """Return the settings that measure images as they are, over the whole set, in any order."""
        return self.model_copy(update={"estimator": "pooled", "order": "file", "views": Views()})

    def used_seed(self, seed: int) -> int | None:
        """Return the seed if the order or the views of the images depend on it, else None."""
        return seed if self.views != Views() else self.order_seed(seed)

    def order_seed(self, seed: int) -> int | None:
        """Return the seed for shuffling the images; None: file order, or `pooled`, which needs no order."""
        return seed if self.order == "mixed" and self.estimator == "batched" else None


class Perturbation(Node):
    """Directed weight adjustment (DWA): before each batch, the teacher ascends the cross-entropy."""

    steps: Annotated[int, Field(ge=0, le=10**6)] = 0  #: K, ascent steps before each batch; 0: none
    rho: Annotated[float, Field(ge=0)] = 0.015  #: ρ; each step has norm ρ/K over all weights
    restore: Literal["batch", "round"] = (
        "batch"  #: restore the teacher before each batch, or each round of ipc
    )


class Density(Node):
    """Density loss (G-VBSM), which separates the images of a class.

    KL(softmax(λ/τ) ‖ softmax(λ)), with λ the eigenvalues of their Gram matrix.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0  #: weight of the loss; 0: off
    tau: Annotated[float, Field(gt=0)] = 4.0  #: temperature τ


class Select(Node):
    """Selection of crops of real images instead of optimisation (RDED)."""

    pool: Positive = 300  #: candidate images per class; at least the number of crops needed
    crops: Positive = 5  #: random crops per candidate; the one of lowest cross-entropy is kept
    factor: Annotated[int, Field(ge=1, le=64)] = 1  #: an image consists of factor×factor crops


class Recover(Node):
    """Synthesis of the images: optimisation (UniDD Algorithm 1, Table 9), selection, or none."""

    algorithm: Literal["optimise", "select", "none"] = "optimise"  #: select: crops; none: real images
    iterations: Positive = 1000  #: optimisation steps per batch
    lr: Annotated[float, Field(gt=0)] = 0.25  #: learning rate of the pixels
    betas: tuple[Decay, Decay] = (0.5, 0.9)  #: betas of Adam
    classes_per_batch: Positive = 200  #: classes per batch, with one image of each
    group: Literal["round", "class"] = "round"  #: class: batches of the same size, filled class by class
    class_parts: Positive = 1  #: group = class: take the images of all classes in this many parts, in turn
    #: first or random real images, N(0,1), or tiles of real crops as `select` describes them (RDED)
    init: Literal["first", "random", "noise", "tiles"] = "first"
    emu: bool = True  #: cumulative mean of the statistics over batches (UniDD Eq. 18)
    straight_through: Decay | None = None  #: α of the running statistics over steps (G-VBSM); None: off
    drop: Decay = 0.0  #: fraction of convolutions randomly left out of a step (G-VBSM)
    density: Density = Density()
    clamp: bool = True  #: clamp pixels to the valid range after each step
    views: Views = Views(crop_scale=(0.08, 1.0), flip=True, roll=4)
    crop_curriculum: bool = False  #: decrease the minimum crop from 1 to that of crop_scale by cosine (CDA)
    perturb: Perturbation = Perturbation()
    select: Select = Select()
    shared_view: bool = True  #: one random view for the whole batch, instead of one per image
    precision: Precision = "float32"  #: precision of the network; statistics are always float32
    micro_batch: Positive | None = None  #: images per forward pass; None: the whole batch
    save: Literal["png", "jpeg75"] = "png"  #: files that students train on; jpeg75: lossy, quality 75

    @model_validator(mode="after")
    def _require_compatible_options(self) -> Recover:
        if self.emu and self.straight_through is not None:
            raise ValueError("emu and straight_through exclude each other; set emu = false")
        if self.crop_curriculum and self.views.crop_scale is None:
            raise ValueError("crop_curriculum = true needs crops; set views.crop_scale, such as [0.08, 1]")
        if self.algorithm != "optimise":
            if self.init == "noise":
                raise ValueError(
                    f"algorithm = {self.algorithm} uses real images, but init = noise; set init = random"
                )
            if self.perturb.steps:
                raise ValueError(
                    f"algorithm = {self.algorithm} optimises nothing, so perturb.steps ="
                    f" {self.perturb.steps} has no effect; set it to 0"
                )
        return self


class Relabel(Node):
    """Soft labels of the students (FKD)."""

    mode: Literal["online", "stored"] = "online"  #: compute labels during training, or store them first
    stored_epochs: Positive | None = None  #: label epochs that are stored and reused; None: all


class Validate(Node):
    """Training of students on the distilled images (UniDD Table 10)."""

    #: own: the method's authors' settings of students, if its file has any; shared: the same for all methods
    settings: Literal["shared", "own"] = "shared"
    students: tuple[BackboneName, ...] = ()  #: architectures; empty: that of the backbone
    seeds: Positive = 3  #: students per architecture
    controls: tuple[ControlName, ...] = ("random", "start")  #: sets of real images to train students on, too
    epochs: Positive = 300  #: training epochs
    batch: Positive = 50  #: batch size
    optimiser: Optimiser = Optimiser(name="adamw", lr=1e-3, weight_decay=1e-2)
    loss: Literal["kl", "mse"] = "kl"  #: distance from the teacher: KL at a temperature, or of the logits
    ce_weight: Annotated[float, Field(ge=0)] = 0.0  #: weight of the cross-entropy of the image's own class
    temperature: Annotated[float, Field(gt=0)] = 20.0  #: temperature T of the soft labels, for `kl`
    #: BatchNorm of the labelling teacher: running statistics, or those of the batch that it labels
    teacher_batchnorm: Literal["running", "batch"] = "running"
    loss_scale: Literal["none", "t2"] = "none"  #: t2: multiply `kl` by T²
    #: weights of a first convolution that was adapted to small images or few channels
    stem_init: Literal["kaiming", "pytorch"] = "kaiming"
    views: Views = Views(crop_scale=(0.08, 1.0), flip=True)
    cutmix: Literal["none", "batch", "image"] = "batch"  #: CutMix; one λ and patch per batch, or per image
    mixup: Annotated[float, Field(ge=0)] = 0.0  #: α of MixUp, with one λ ~ Beta(α, α) per batch; 0: none
    evaluate_every: Positive = 10  #: epochs between evaluations
    evaluate_from: Fraction = 0.8  #: only epochs after this fraction are evaluated, and always the last
    #: test images, the same number of each class, on which accuracy is shown during training; 0: none
    preview_images: Annotated[int, Field(ge=0, le=10**9)] = 250
    average: Fraction = 0.0  #: fraction of final epochs whose weights are averaged
    #: train all students of an architecture in one pass; auto: where that is faster when the run begins
    together: Literal["auto", "always", "never"] = "auto"
    precision: Precision = "float32"  #: precision of the forward passes (autocast)

    @model_validator(mode="after")
    def _require_one_way_to_mix(self) -> Validate:
        if self.mixup and self.cutmix != "none":
            raise ValueError(f"mixup = {self.mixup:g} and cutmix = {self.cutmix} exclude each other")
        return self


class Given(Node):
    """Images, labels and statistics that are imported instead of computed."""

    images: PathText | None = None  #: a run, class folders, a .pt or safetensors file; None: recover them
    #: value range of a .pt file; auto: that of its format, or what integers and values in [0, 1] show
    space: Literal["auto", "pixels", "bytes", "normalised", "zca"] = "auto"
    max_clipped: Fraction = (
        0.01  #: largest share of values of a .pt file that may lie outside [0, 1] as pixels
    )
    mean: tuple[float, ...] | None = None  #: mean of normalised values; None: that of the file's format
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None  #: std, likewise
    experiment: Annotated[int, Field(ge=0, le=10**6)] = 0  #: index of the set in a file with several, from 0
    #: .pt file with the label of each image of a .pt file; class-major: as many of each class, in label order
    image_labels: PathText | None = None
    labels: PathText | None = None  #: folder of SRe²L label files; None: use the teacher's labels
    label_seed: Annotated[int, Field(ge=0, lt=2**63)] = 42  #: seed of the order in which the labels were made
    statistics: PathText | None = None  #: folder of the released code's running.npz; None: compute them
    trust: bool = False  #: accept statistics from an unknown teacher


class Config(Node):
    """All settings of one experiment."""

    protocol: Literal["cfm", "paper", "reference"] = "cfm"  #: set of defaults below the preset
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  #: random seed of the first repeat; the next has the next
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1  #: times that the whole experiment is computed
    ipc: Positive = 10  #: images per class
    device: str = "auto"  #: auto, cpu, cuda, cuda:N or mps
    #: threads on a CPU; auto: the fastest number when the run begins; adaptive: measured again and again
    threads: Threads = "auto"
    #: seconds between checkpoints; 0: as often as possible
    checkpoint_seconds: Annotated[float, Field(ge=0, le=1e6)] = 60.0
    data: Data = Data()
    backbone: Backbone = Backbone()
    squeeze: Squeeze = Squeeze()
    statistics: Statistics = Statistics()
    objective: Objective = Objective()
    recover: Recover = Recover()
    relabel: Relabel = Relabel()
    validate_: Validate = Field(default=Validate(), alias="validate")  #: written `validate` in files
    given: Given = Given()

    @property
    def optimises(self) -> bool:
        """Whether images are optimised, rather than imported or taken from real images."""
        return self.recover.algorithm == "optimise" and self.given.images is None

    def for_repeat(self, number: int) -> Config:
        """Return the settings of one repeat, counted from 1: those of a single run with its own seed."""
        return self.model_copy(update={"seed": self.seed + number - 1, "repeats": 1})

    @property
    def students_per_architecture(self) -> int:
        """The number of students of each architecture: all seeds, on distilled images and on each control."""
        return self.validate_.seeds * (1 + len(self.controls))

    @property
    def controls(self) -> tuple[ControlName, ...]:
        """The controls that students are trained on: those of `validate.controls` that this experiment has.

        Images that are optimised from real ones have the control `start`. The images of the method `random`
        are the control `random` themselves.
        """
        starts_from_real = self.optimises and self.recover.init in ("first", "random")
        is_control_itself = self.recover.algorithm == "none" and self.given.images is None
        absent = set() if starts_from_real else {"start"}
        absent |= {"random"} if is_control_itself else set()
        return tuple(name for name in self.validate_.controls if name not in absent)

    @property
    def uses_beta(self) -> bool:
        """Whether β affects the experiment: its images are optimised, and a filter depends on β."""
        return self.optimises and any(term.uses_beta for term in self.objective.terms)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Return the configuration of `to_dict`. Raises pydantic's ValidationError.

        `validate.control: true` or `false`, which earlier versions wrote, is read as `controls`; that control
        had the images that recovery starts from.
        """
        validate = values.get("validate")
        if isinstance(validate, Mapping) and isinstance(validate.get("control"), bool):
            init = (values.get("recover") or {}).get("init", "first")
            kind = "start" if init == "first" else "random"
            controls = [kind] if validate["control"] else []
            rest = {key: value for key, value in validate.items() if key != "control"}
            values = {**values, "validate": {**rest, "controls": controls}}
        return cls.model_validate_json(json.dumps(values), strict=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as nested JSON-serialisable data, with the key names used in files."""
        return self.model_dump(mode="json", by_alias=True)

    def flatten(self) -> dict[str, Any]:
        """Return dotted key → plain value for every setting, in the order of the tree."""
        tree = self.to_dict()
        values = {}
        for path in self.leaf_keys():
            value: Any = tree
            for part in path.split("."):
                value = value[part]
            values[path] = value
        return values

    @field_validator("device")
    @classmethod
    def _require_known_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?|mps", name):
            raise ValueError(f"'{name}' is not a device; use auto, cpu, cuda, cuda:N or mps")
        return name

    @model_validator(mode="after")
    def _require_possible_centre_and_warmup(self) -> Config:
        if self.statistics.centre == "image" and not self.objective.has_covariance:
            raise ValueError(
                f"statistics.centre = image needs Ψ, which objective.taps = {self.objective.taps} does not"
                f" have; set statistics.centre = set"
            )
        if self.statistics.centre == "image" and self.given.statistics is not None:
            raise ValueError(
                "given.statistics are centred on the mean of all images; set statistics.centre = set"
            )
        trainings = (("squeeze", self.squeeze), ("validate", self.validate_))
        for name, training in trainings:
            warmup = training.optimiser.warmup_epochs
            if warmup and warmup >= training.epochs:
                raise ValueError(
                    f"{name}.optimiser.warmup_epochs = {warmup} leaves none of the {name}.epochs ="
                    f" {training.epochs}; lower it"
                )
        return self

    @model_validator(mode="after")
    def _require_compatible_sections(self) -> Config:
        if self.seed + self.repeats > 2**32:
            raise ValueError(f"seed = {self.seed} leaves no seeds for {self.repeats} repeats; lower seed")
        recover, more_networks = self.recover, set(self.backbone.also) - {self.backbone.name}
        teachers, networks = len(self.backbone.also_teachers), len(self.backbone.also)
        if teachers not in (0, networks):
            raise ValueError(
                f"backbone.also_teachers has {teachers} teachers for the {networks} networks of"
                f" backbone.also; give one for each, or none"
            )
        if more_networks and recover.algorithm == "optimise":
            if recover.emu:
                raise ValueError(
                    "recover.emu = true supports one network, but backbone.also lists more;"
                    " set recover.emu = false"
                )
            if recover.perturb.steps:
                raise ValueError(
                    "recover.perturb supports one network, but backbone.also lists more; empty backbone.also"
                )
            if self.objective.taps != "bn-conv":
                raise ValueError(
                    f"objective.taps = {self.objective.taps} supports one network, but backbone.also lists"
                    f" more; set objective.taps = bn-conv"
                )
        if recover.drop and self.objective.taps != "bn-conv":
            raise ValueError("recover.drop needs objective.taps = bn-conv; set that, or recover.drop = 0")
        if recover.group == "class" and self.objective.schedule.per == "round":
            raise ValueError("recover.group = class has no rounds; set objective.schedule.per = batch")
        stored = self.relabel.stored_epochs
        if stored is not None and stored > self.validate_.epochs:
            raise ValueError(
                f"relabel.stored_epochs = {stored} is more than validate.epochs = {self.validate_.epochs}"
            )
        return self
