"""The typed tree of everything that an experiment can be told; frozen, every field documented here.

Source of defaults: the embedded `digits` set under the `cfm` protocol. Presets and protocols are
YAML beside the package; `settings` merges them into one of these trees.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from engine.config.fields import (
    BackboneName,
    Decay,
    Fraction,
    Node,
    PathText,
    Pixels,
    Positive,
    Precision,
    Scale,
)
from engine.config.objective import Objective


class Data(Node):
    """Which images, and how they are read."""

    name: Literal["digits", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "folder"] = "digits"
    root: PathText | None = None  #: folder that holds the data set; None: the user's data folder
    image_size: Annotated[int, Field(ge=16, le=4096)] | None = None  #: pixels; None: the set's own size
    mean: tuple[float, ...] | None = None  #: per channel in [0, 1]; None: the set's own
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None  #: per channel; None: the set's own
    test: Literal["test", "holdout"] = "test"  #: measure on the test split, or on held-out training images
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1  #: share held out where there is no test split
    on_bad_image: Literal["refuse", "skip"] = "refuse"  #: what an unreadable image does to the run

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Data:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, 3):
                raise ValueError(f"{name} has {len(values)} values; give one per channel, 1 or 3")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
        return self


class Backbone(Node):
    """The network that images are distilled through, and where its weights come from."""

    name: BackboneName = "convnet"
    depth: Annotated[int, Field(ge=1, le=8)] | None = None  #: ConvNet blocks; None: 3 to 63 px, 4 from 64 px
    width: Annotated[int, Field(ge=1, le=65536)] = 128  #: ConvNet channels
    norm: Literal["batch", "instance"] = "batch"  #: ConvNet normalisation
    teacher: PathText | None = None  #: checkpoint file, or torchvision:WEIGHTS; None: squeeze one
    also: tuple[BackboneName, ...] = ()  #: further networks, taken in turn; itself among them counts once
    also_teachers: tuple[PathText, ...] = ()  #: of each of `also`, as `teacher`; empty: squeeze them

    @model_validator(mode="after")
    def _each_once(self) -> Backbone:
        if len(set(self.also)) < len(self.also):
            raise ValueError(f"also names a network twice: {list(self.also)}")
        return self


class Optimiser(Node):
    """How weights are trained. Learning rate follows `schedule` over all epochs."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  #: SGD only
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "half-cosine", "step"] = "cosine"
    step_epochs: Positive = 30  #: `step`: lr is divided by ten after every so many epochs


class Views(Node):
    """Random views of an image: shuffled patches, crop, flip, roll (augmentation)."""

    patches: Annotated[int, Field(ge=1, le=64)] = 1  #: cut into patches×patches, shuffled first (RDED)
    crop_scale: Scale | None = None  #: RandomResizedCrop area range; None: no resized crop
    padding: Pixels = 0  #: RandomCrop with so many pixels of black border
    flip: bool = False  #: mirror left-right with probability 1/2
    roll: Pixels = 0  #: cyclic shift by 0…roll pixels along both axes

    @model_validator(mode="after")
    def _low_before_high(self) -> Views:
        if self.crop_scale is not None and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale goes from low to high, not {list(self.crop_scale)}")
        return self


class Squeeze(Node):
    """Training of the teacher (Table 8)."""

    epochs: Positive = 30
    batch: Positive = 128
    optimiser: Optimiser = Optimiser()
    views: Views = Views(padding=2)
    precision: Precision = "float32"  #: of the forward passes (autocast)


class Statistics(Node):
    """Real side: Ψ and Φ of every tap over the training set (Eq. 17)."""

    estimator: Literal["pooled", "batched"] = "pooled"
    batch: Positive = 128  #: images per pass; changes the result of `batched` alone
    order: Literal["file", "mixed"] = "file"  #: seeded shuffle of the set; `batched` alone looks at it

    def order_seed(self, seed: int) -> int | None:
        """The seed that orders the images; None: file order; no order changes `pooled`."""
        return seed if self.order == "mixed" and self.estimator == "batched" else None


class Perturbation(Node):
    """Directed weight adjustment: the teacher of a batch climbs its images' cross-entropy first (DWA)."""

    steps: Annotated[int, Field(ge=0, le=10**6)] = 0  #: K ascent steps before each batch; 0: none
    rho: Annotated[float, Field(ge=0)] = 0.015  #: ρ; each step is ρ/K long over all weights


class Density(Node):
    """Keeps the images of a class apart: KL(softmax(λ/τ) ‖ softmax(λ)), λ of their Gram matrix (G-VBSM)."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    tau: Annotated[float, Field(gt=0)] = 4.0  #: τ


class Select(Node):
    """Crops of real images in place of optimised ones (RDED)."""

    pool: Positive = 300  #: real images of a class that are looked at; never fewer than tiles
    crops: Positive = 5  #: random crops of each, of which the likeliest is kept
    factor: Annotated[int, Field(ge=1, le=64)] = 1  #: an image is factor×factor of them


class Recover(Node):
    """Making of the images: optimisation (Algorithm 1, Table 9), selection, or none."""

    algorithm: Literal["optimise", "select", "none"] = "optimise"  #: or crops, or real images
    iterations: Positive = 1000
    lr: Annotated[float, Field(gt=0)] = 0.25
    betas: tuple[Decay, Decay] = (0.5, 0.9)  #: Adam's
    classes_per_batch: Positive = 200  #: a batch is one image of each of so many classes
    group: Literal["round", "class"] = "round"  #: class: as many images, but all of one class after another
    init: Literal["first", "random", "noise"] = "first"  #: b-th real image in file order, any, or N(0,1)
    emu: bool = True  #: moving statistics over batches (Eq. 18)
    straight_through: Decay | None = None  #: α of statistics that move from step to step (G-VBSM); None: off
    drop: Decay = 0.0  #: share of the convolutions that a step leaves out at random (G-VBSM)
    density: Density = Density()
    clamp: bool = True  #: keep pixels valid after each step
    views: Views = Views(crop_scale=(0.08, 1.0), flip=True, roll=4)
    crop_curriculum: bool = False  #: the least crop falls from 1 to crop_scale's along a cosine (CDA)
    perturb: Perturbation = Perturbation()
    select: Select = Select()
    shared_view: bool = True  #: one draw for the whole batch, or one per image
    precision: Precision = "float32"  #: of the network; statistics are float32 whatever it is
    micro_batch: Positive | None = None  #: images per forward pass; None: the whole batch

    @model_validator(mode="after")
    def _fits_together(self) -> Recover:
        if self.emu and self.straight_through is not None:
            raise ValueError("emu and straight_through are two kinds of moving statistics; set emu = false")
        if self.crop_curriculum and self.views.crop_scale is None:
            raise ValueError("crop_curriculum = true needs crops; give views.crop_scale, such as [0.08, 1]")
        if self.algorithm != "optimise":
            if self.init == "noise":
                raise ValueError(
                    f"algorithm = {self.algorithm} takes real images, which init = noise has not: use random"
                )
            if self.perturb.steps:
                raise ValueError(
                    f"algorithm = {self.algorithm} optimises nothing, so perturb.steps ="
                    f" {self.perturb.steps} does nothing; set it to 0"
                )
        return self


class Relabel(Node):
    """Where the students' soft labels come from (FKD)."""

    mode: Literal["online", "stored"] = "online"
    stored_epochs: Positive | None = None  #: pruned store: so many random epochs, reused; None: all


class Validate(Node):
    """Training of students on the distilled images (Table 10)."""

    students: tuple[BackboneName, ...] = ()  #: backbone names; empty: the backbone itself
    seeds: Positive = 3
    control: bool = True  #: train the `random` control beside every student
    epochs: Positive = 300
    batch: Positive = 50
    optimiser: Optimiser = Optimiser(name="adamw", lr=1e-3, weight_decay=1e-2)
    temperature: Annotated[float, Field(gt=0)] = 20.0
    views: Views = Views(crop_scale=(0.08, 1.0), flip=True)
    cutmix: Literal["none", "batch", "image"] = "batch"  #: CutMix: λ and patch of a batch or of an image
    evaluate_every: Positive = 10  #: epochs between measurements…
    evaluate_from: Fraction = 0.8  #: …after this share of all epochs
    average: Fraction = 0.0  #: share of last epochs whose weights are averaged for the result
    precision: Precision = "float32"  #: of the forward passes (autocast)


class Given(Node):
    """What is given from elsewhere instead of being made here."""

    images: PathText | None = None  #: a run, class folders, or a .pt or safetensors file; None: recover them
    space: Literal["auto", "pixels", "normalised", "zca"] = "auto"  #: of a .pt file's values
    mean: tuple[float, ...] | None = None  #: of normalised values; None: what the file's family uses
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None  #: likewise
    experiment: Annotated[int, Field(ge=0, le=10**6)] = 0  #: which set of a file that holds several, from 0
    labels: PathText | None = None  #: folder of SRe²L's label files for those images; None: the teacher's
    label_seed: Annotated[int, Field(ge=0, lt=2**63)] = 42  #: of the order in which they were made
    statistics: PathText | None = None  #: folder of the released code's running.npz; None: measure them
    trust: bool = False  #: take statistics though nobody knows which teacher they were measured with


class Config(Node):
    """One experiment."""

    protocol: Literal["cfm", "paper", "reference"] = "cfm"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    ipc: Positive = 10  #: images per class
    device: str = "auto"  #: auto, cpu, cuda, cuda:N or mps
    checkpoint_seconds: Annotated[float, Field(ge=0, le=1e6)] = (
        60.0  #: between checkpoints; 0: wherever possible
    )
    data: Data = Data()
    backbone: Backbone = Backbone()
    squeeze: Squeeze = Squeeze()
    statistics: Statistics = Statistics()
    objective: Objective = Objective()
    recover: Recover = Recover()
    relabel: Relabel = Relabel()
    validate_: Validate = Field(default=Validate(), alias="validate")  #: key `validate`
    given: Given = Given()

    @property
    def optimises(self) -> bool:
        """Whether images are optimised, neither given nor taken from real ones."""
        return self.recover.algorithm == "optimise" and self.given.images is None

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?|mps", name):
            raise ValueError(f"'{name}' is no device; use auto, cpu, cuda, cuda:N or mps")
        return name

    @model_validator(mode="after")
    def _backbones_fit(self) -> Config:
        made, several = self.recover, set(self.backbone.also) - {self.backbone.name}
        teachers, networks = len(self.backbone.also_teachers), len(self.backbone.also)
        if teachers not in (0, networks):
            raise ValueError(
                f"backbone.also_teachers has {teachers} teachers for the {networks} networks of"
                f" backbone.also; give one for each, or none"
            )
        if several and made.algorithm == "optimise":
            if made.emu:
                raise ValueError(
                    "recover.emu = true moves the statistics of one network, and backbone.also names more;"
                    " set recover.emu = false"
                )
            if made.perturb.steps:
                raise ValueError("recover.perturb turns one network, and backbone.also names more; empty it")
            if self.objective.taps != "bn-conv":
                raise ValueError(
                    f"backbone.also takes several networks, whose layers differ; objective.taps ="
                    f" {self.objective.taps} tells of single layers, so set objective.taps = bn-conv"
                )
        if made.drop and self.objective.taps != "bn-conv":
            raise ValueError(
                "recover.drop leaves out convolutions of objective.taps = bn-conv, and of no others"
            )
        if made.group == "class" and self.objective.schedule.per == "round":
            raise ValueError("recover.group = class has no rounds; set objective.schedule.per = batch")
        return self

    @model_validator(mode="after")
    def _stored_is_used(self) -> Config:
        stored = self.relabel.stored_epochs
        if stored is not None and stored > self.validate_.epochs:
            raise ValueError(
                f"relabel.stored_epochs = {stored} is more than validate.epochs = {self.validate_.epochs}"
            )
        return self
