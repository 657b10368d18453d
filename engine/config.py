"""The typed tree of everything that an experiment can be told; frozen, every field documented here.

Source of defaults: the embedded `digits` set under the `cfm` protocol. Presets and protocols are
YAML beside the package; `settings` merges them into one of these trees.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from keyword import iskeyword
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from engine import formula

LONGEST = 255  #: bytes of one name in a path, on all common file systems


def _possible(path: str) -> str:
    if "\0" in path or any(len(name.encode()) > LONGEST for name in path.split("/")) or len(path) > 4000:
        raise ValueError("no file can have this name")
    if path.startswith("~") and path.split("/")[0] != "~":
        raise ValueError("only ~/ stands for a home folder, your own; write another's out")
    return path


PathText = Annotated[str, AfterValidator(_possible)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Pixels = Annotated[int, Field(ge=0, le=4096)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Scale = tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]]
ShortName = Annotated[str, Field(pattern=r"^[A-Za-z][\w.+-]{0,23}$")]
Parameter = Annotated[float, Field(ge=-1e9, le=1e9)]
SignalName = Literal["none", "class", "mean"]
FilterName = Literal["identity", "lambda", "ridge", "diagonal"]
Precision = Literal["float32", "bfloat16"]
TapName = Literal["conv-input", "conv-output", "batchnorm"]
BackboneName = Literal[
    "convnet",
    "resnet18",
    "resnet50",
    "resnet101",
    "densenet121",
    "regnet_y_8gf",
    "convnext_tiny",
    "mobilenet_v2",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
]


class Node(BaseModel):
    """Base of every part of the tree: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class Optimiser(Node):
    """How weights are trained. Learning rate follows `schedule` over all epochs."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  #: SGD only
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["cosine", "half-cosine", "step"] = "cosine"
    step_epochs: Positive = 30  #: `step`: lr is divided by ten after every so many epochs


class Views(Node):
    """Random views of an image: crop, flip, roll (augmentation)."""

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


class Statistics(Node):
    """Real side: Ψ and Φ of every tap over the training set (Eq. 17)."""

    estimator: Literal["pooled", "batched"] = "pooled"
    batch: Positive = 128  #: images per pass; changes the result of `batched` alone
    order: Literal["file", "mixed"] = "file"  #: seeded shuffle of the set; changes `batched` alone


def _expression(text: str | None) -> str | None:
    """Refuse what is no expression; whether its names are known, the objective sees."""
    if text is not None:
        try:
            formula.parse(text)
        except formula.FormulaError as error:
            raise ValueError(_told(text, error)) from None
    return text


def _told(text: str, error: formula.FormulaError) -> str:
    shown = text if len(text) <= 60 else f"{text[:57]}…"
    return f"{shown!r} {error}"


Expression = Annotated[str | None, AfterValidator(_expression)]


class Term(Node):
    """weight · ‖ f(Ψ)·g − f(Ψ_s)·g_s ‖_F summed over taps (Eq. 1, unsquared as Eq. 20).

    f is a filter by its name, or an expression of λ, β and the objective's parameters (see `formula`).
    """

    filter: FilterName | None = None
    f: Expression = None  #: an expression instead, as 1/(lambda + beta)**2
    f_synthetic: Expression = None  #: another one for the synthetic side; None: the same
    name: ShortName | None = None  #: of f in tables and charts
    signal: Literal["none", "class", "mean", "chosen"] = "none"  #: chosen: what objective.signal says
    weight: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _means_something(self) -> Term:
        if (self.filter is None) == (self.f is None):
            raise ValueError("a term has either a filter, by its name, or f, an expression")
        if self.f is None and (self.f_synthetic is not None or self.name is not None):
            raise ValueError("f_synthetic and name go with f, not with a filter that has a name")
        if self.filter == "identity" and self.signal == "none":
            raise ValueError("the identity filter without a signal is zero whatever the images are")
        if self.filter == "diagonal" and self.signal != "none":
            raise ValueError("the diagonal filter takes no signal")
        return self

    @model_serializer(mode="wrap")
    def _what_is_said(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}

    @property
    def sides(self) -> tuple[str, ...]:
        """Its expressions: of the real and, where it is another, of the synthetic side; none for a filter."""
        return tuple(text for text in (self.f, self.f_synthetic) if text is not None)

    @property
    def label(self) -> str:
        """What is filtered with, as tables, charts and messages name it."""
        return self.filter or self.name or " | ".join(self.sides)

    @property
    def title(self) -> str:
        """The label, and the signal after a slash."""
        return f"{self.label}/{self.signal}"

    def same_as(self, other: Term) -> bool:
        """Whether both say the same but for the weight."""
        mine, its = ((each.filter, each.sides, each.signal) for each in (self, other))
        return mine == its


_BATCHNORM_KNOWS = {("diagonal", "none"), ("identity", "mean")}


class BetaSchedule(Node):
    """β_b over recovery (Eq. 19 and its variants)."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    origin: Literal[0, 1] = 0  #: 1: b = 1…B, ends at 0 (the paper); 0: starts at β (released code)
    per: Literal["round", "batch"] = "round"  #: batches of one IPC round share β, or each has its own
    beta_min: Annotated[float, Field(ge=0)] = 0.0  #: floor of β_b (Algorithm 1's β_min)


class Objective(Node):
    """What the images are optimised for: terms over taps, plus cross-entropy (Eq. 20, 21)."""

    method: str = "cfm"  #: name of the method file that these values started from
    taps: TapName = "conv-input"
    signal: SignalName = "mean"  #: what terms with `signal: chosen` use
    beta: Annotated[float, Field(ge=0)] = 0.1
    schedule: BetaSchedule = BetaSchedule()
    parameters: dict[str, Parameter | None] = {}  #: numbers that expressions name; alpha null: 1/λ_max
    terms: tuple[Term, ...] = (
        Term(filter="ridge", signal="none", weight=0.1),
        Term(filter="ridge", signal="chosen", weight=0.1),
    )
    ce: Annotated[float, Field(ge=0)] = 1.0  #: weight of the cross-entropy
    first_tap: Annotated[float, Field(ge=0)] = 1.0  #: factor on the first tap's terms (SRe²L: 10)

    @field_validator("parameters")
    @classmethod
    def _names_are_free(cls, parameters: dict[str, float | None]) -> dict[str, float | None]:
        taken = {formula.LAMBDA, formula.BETA, *formula.SPELT, *formula.FUNCTIONS}
        for name, value in parameters.items():
            if not re.fullmatch(r"[A-Za-z]\w{0,23}", name) or iskeyword(name) or name in taken:
                raise ValueError(f"'{name}' cannot name a parameter; use a word that has no meaning yet")
            if name == formula.ALPHA and value is not None and value <= 0:
                raise ValueError("alpha must be greater than 0; null takes 1/λ_max of each tap")
            if name != formula.ALPHA and value is None:
                raise ValueError(f"{name} needs a value; null is for alpha alone, and means 1/λ_max")
        return parameters

    @model_validator(mode="after")
    def _expressions_can_be_calculated(self) -> Objective:
        scope = {name: value for name, value in self.parameters.items() if value is not None}
        scope[formula.BETA] = max(self.beta, self.schedule.beta_min)
        if formula.ALPHA in self.parameters:
            scope.setdefault(formula.ALPHA, 1.0 / float(formula.PROBES[-1]))
        for number, term in enumerate(self.terms):
            for key, text in zip(("f", "f_synthetic"), term.sides, strict=False):
                at = f"objective.terms[{number}].{key}"
                try:
                    constant = formula.is_constant(formula.check(text, scope))
                except formula.FormulaError as error:
                    raise ValueError(f"{at}: {_told(text, error)}") from None
            if term.f is not None and constant and self.signal_of(term) == "none":
                raise ValueError(
                    f"{at}: {text!r} is constant, and without a signal the same whatever the images are"
                )
        return self

    def signal_of(self, term: Term) -> SignalName:
        """The signal of a term; of `chosen`, what the objective chooses."""
        return self.signal if term.signal == "chosen" else term.signal

    @model_validator(mode="after")
    def _can_be_measured(self) -> Objective:
        if not self.terms and self.ce == 0:
            raise ValueError("terms is empty and ce is 0: nothing to optimise for")
        for term in self.terms:
            signal = self.signal_of(term)
            if term.filter == "identity" and signal == "none":
                raise ValueError("signal = none makes the identity filter zero whatever the images are")
            if self.taps == "batchnorm" and (term.filter, signal) not in _BATCHNORM_KNOWS:
                raise ValueError(
                    f"taps = batchnorm knows variances and means alone, so no term"
                    f" {term.label} with signal {signal}; use diagonal with none, identity with mean,"
                    f" or taps conv-input"
                )
            if term.filter == "ridge" and max(self.beta, self.schedule.beta_min) == 0:
                raise ValueError("beta = 0 leaves the ridge filter without a ridge; give a positive beta")
        return self


class Recover(Node):
    """Optimisation of the images (Algorithm 1, Table 9)."""

    iterations: Positive = 1000
    lr: Annotated[float, Field(gt=0)] = 0.25
    betas: tuple[Decay, Decay] = (0.5, 0.9)  #: Adam's
    classes_per_batch: Positive = 200  #: a batch is one image of each of so many classes
    init: Literal["first", "random", "noise"] = "first"  #: b-th real image in file order, any, or N(0,1)
    emu: bool = True  #: moving statistics over batches (Eq. 18)
    clamp: bool = True  #: keep pixels valid after each step
    views: Views = Views(crop_scale=(0.08, 1.0), flip=True, roll=4)
    shared_view: bool = True  #: one draw for the whole batch, or one per image
    precision: Precision = "float32"  #: of the network; statistics are float32 whatever it is


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

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?|mps", name):
            raise ValueError(f"'{name}' is no device; use auto, cpu, cuda, cuda:N or mps")
        return name

    @model_validator(mode="after")
    def _stored_is_used(self) -> Config:
        stored = self.relabel.stored_epochs
        if stored is not None and stored > self.validate_.epochs:
            raise ValueError(
                f"relabel.stored_epochs = {stored} is more than validate.epochs = {self.validate_.epochs}"
            )
        return self
