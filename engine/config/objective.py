"""What images are optimised for: terms of filters and signals, the schedule of β (Eq. 1, 19–21)."""

from __future__ import annotations

import re
from collections.abc import Callable
from keyword import iskeyword
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_serializer, model_validator

from engine.config import expressions
from engine.config.fields import FilterName, Node, Parameter, Pixels, ShortName, SignalName, TapName


def _expression(text: str | None) -> str | None:
    """Refuse what is no expression; whether its names are known, the objective sees."""
    if text is not None:
        try:
            expressions.parse(text)
        except expressions.FormulaError as error:
            raise ValueError(_told(text, error)) from None
    return text


def _told(text: str, error: expressions.FormulaError) -> str:
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


_WITHOUT_PSI = ("batchnorm", "bn-conv")  # taps of which no more than variances and means are known
_WITHOUT_PSI_KNOWS = {("diagonal", "none"), ("identity", "mean")}


class BetaSchedule(Node):
    """β_b over recovery (Eq. 19 and its variants)."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    origin: Literal[0, 1] = 0  #: 1: b = 1…B, ends at 0 (the paper); 0: starts at β (released code)
    per: Literal["round", "batch"] = "round"  #: batches of one IPC round share β, or each has its own
    beta_min: Annotated[float, Field(ge=0)] = 0.0  #: floor of β_b (Algorithm 1's β_min)


class Objective(Node):
    """What the images are optimised for: terms over taps, plus cross-entropy (Eq. 20, 21)."""

    method: str = "cfm"  #: name of the method file that these values started from
    taps: TapName = "conv-input"  #: bn-conv: the inputs of all BatchNorms and convolutions
    patch: Pixels = 0  #: side of the patches of conv inputs that are matched besides; 0: none (G-VBSM)
    signal: SignalName = "mean"  #: what terms with `signal: chosen` use
    beta: Annotated[float, Field(ge=0)] = 0.1
    schedule: BetaSchedule = BetaSchedule()
    #: numbers that expressions name; alpha null: 1/λ_max
    parameters: dict[str, Parameter | None] = Field(default_factory=dict)
    terms: tuple[Term, ...] = (
        Term(filter="ridge", signal="none", weight=0.1),
        Term(filter="ridge", signal="chosen", weight=0.1),
    )
    ce: Annotated[float, Field(ge=0)] = 1.0  #: weight of the cross-entropy
    first_tap: Annotated[float, Field(ge=0)] = 1.0  #: factor on the first tap's terms (SRe²L: 10)

    @field_validator("parameters")
    @classmethod
    def _names_are_free(cls, parameters: dict[str, float | None]) -> dict[str, float | None]:
        taken = {expressions.LAMBDA, expressions.BETA, *expressions.SPELT, *expressions.FUNCTIONS}
        for name, value in parameters.items():
            if not re.fullmatch(r"[A-Za-z]\w{0,23}", name) or iskeyword(name) or name in taken:
                raise ValueError(f"'{name}' cannot name a parameter; use a word that has no meaning yet")
            if name == expressions.ALPHA and value is not None and value <= 0:
                raise ValueError("alpha must be greater than 0; null takes 1/λ_max of each tap")
            if name != expressions.ALPHA and value is None:
                raise ValueError(f"{name} needs a value; null is for alpha alone, and means 1/λ_max")
        return parameters

    @model_validator(mode="after")
    def _expressions_can_be_calculated(self) -> Objective:
        scope = {name: value for name, value in self.parameters.items() if value is not None}
        scope[expressions.BETA] = max(self.beta, self.schedule.beta_min)
        if expressions.ALPHA in self.parameters:
            scope.setdefault(expressions.ALPHA, 1.0 / float(expressions.PROBES[-1]))
        for number, term in enumerate(self.terms):
            for key, text in zip(("f", "f_synthetic"), term.sides, strict=False):
                at = f"objective.terms[{number}].{key}"
                try:
                    constant = expressions.is_constant(expressions.check(text, scope))
                except expressions.FormulaError as error:
                    raise ValueError(f"{at}: {_told(text, error)}") from None
            if term.f is not None and constant and self.signal_of(term) == "none":
                raise ValueError(
                    f"{at}: {text!r} is constant, and without a signal the same whatever the images are"
                )
        return self

    @property
    def has_covariance(self) -> bool:
        """Whether the whole Ψ of its taps is known, not variances alone."""
        return self.taps not in _WITHOUT_PSI

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
            if not self.has_covariance and (term.filter, signal) not in _WITHOUT_PSI_KNOWS:
                raise ValueError(
                    f"taps = {self.taps} knows variances and means alone, so no term"
                    f" {term.label} with signal {signal}; use diagonal with none, identity with mean,"
                    f" or taps conv-input"
                )
            if term.filter == "ridge" and max(self.beta, self.schedule.beta_min) == 0:
                raise ValueError("beta = 0 leaves the ridge filter without a ridge; give a positive beta")
        return self
