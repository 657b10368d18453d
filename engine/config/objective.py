"""Settings of the objective of recovery: its terms and the schedule of β (UniDD Eq. 1, 19–21)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from keyword import iskeyword
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_serializer, model_validator

from engine.config import expressions
from engine.config.fields import FilterName, Node, Parameter, Pixels, ShortName, SignalName, TapName
from engine.config.filters import FILTERS, Expression, Filter, Ridge


def _require_expression(text: str | None) -> str | None:
    """Raise ValueError on a syntax error; the names in the expression are checked by `Objective`."""
    if text is not None:
        try:
            expressions.parse(text)
        except expressions.FormulaError as error:
            raise ValueError(_format_formula_error(text, error)) from None
    return text


def _format_formula_error(text: str, error: expressions.FormulaError) -> str:
    shortened = text if len(text) <= 60 else f"{text[:57]}…"
    return f"{shortened!r} {error}"


_ExpressionText = Annotated[str | None, AfterValidator(_require_expression)]


class Term(Node):
    """One term of the objective: weight · ‖ f(Ψ)·g − f(Ψ_s)·g_s ‖_F, summed over taps.

    f is a named filter, or an expression of λ, β and the objective's parameters (see `expressions`).
    Source: UniDD Eq. 1, but not squared, as in Eq. 20.
    """

    filter: FilterName | None = None  #: f(λ) by name: identity 1, lambda λ, ridge 1/(λ + β), diagonal diag Ψ
    f: _ExpressionText = None  #: f(λ) as an expression, such as 1/(lambda + beta)**2
    f_synthetic: _ExpressionText = None  #: f(λ) for the synthetic images; None: the same f
    name: ShortName | None = None  #: name of f in tables and charts
    signal: Literal["none", "class", "mean", "chosen"] = "none"  #: signal g; chosen: use objective.signal
    weight: Annotated[float, Field(ge=0)] = 0.1  #: weight of the term in the loss

    @model_validator(mode="after")
    def _require_valid_term(self) -> Term:
        if (self.filter is None) == (self.f is None):
            raise ValueError("a term has either a filter, which is a name, or f, which is an expression")
        if self.f is None and (self.f_synthetic is not None or self.name is not None):
            raise ValueError("f_synthetic and name can be set only with f, not with a named filter")
        if self.filter == "identity" and self.signal == "none":
            raise ValueError("the identity filter without a signal is zero for all images")
        if self.filter == "diagonal" and self.signal != "none":
            raise ValueError("the diagonal filter takes no signal")
        return self

    @model_serializer(mode="wrap")
    def _omit_unset_keys(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}

    @property
    def sides(self) -> tuple[str, ...]:
        """The expressions for real and synthetic images: one if both use f, empty for a named filter."""
        return tuple(text for text in (self.f, self.f_synthetic) if text is not None)

    @property
    def label(self) -> str:
        """The name of f in tables, charts and messages."""
        return self.filter or self.name or " | ".join(self.sides)

    @property
    def title(self) -> str:
        """The label and the signal, separated by a slash."""
        return f"{self.label}/{self.signal}"

    @property
    def filter_key(self) -> tuple[str | None, ...]:
        """What tells the filters of an objective apart, whatever their names are."""
        return (self.filter, *self.sides)

    @property
    def filter_class(self) -> type[Filter]:
        """The class of the filter."""
        return Expression if self.filter is None else FILTERS[self.filter]

    @property
    def uses_beta(self) -> bool:
        """Whether f depends on β."""
        return self.filter_class.uses_beta or any(
            expressions.BETA in expressions.names(expressions.parse(text)) for text in self.sides
        )

    def build_filter(
        self,
        beta: float,
        parameters: Mapping[str, float | None],
        *,
        largest: float | None = None,
        synthetic: bool = False,
    ) -> Filter:
        """Return the filter for the real or the synthetic images.

        largest: λ_max of the real Ψ; its inverse is the value of α if α is null.
        """
        if self.filter is not None:
            return Ridge(beta) if self.filter == "ridge" else FILTERS[self.filter]()
        text = self.f_synthetic if synthetic and self.f_synthetic is not None else self.f
        assert text is not None
        scope = {name: value for name, value in parameters.items() if value is not None}
        if largest and expressions.ALPHA in parameters:
            scope.setdefault(expressions.ALPHA, 1.0 / largest)
        return Expression(expressions.bind(expressions.parse(text), scope | {expressions.BETA: beta}))


_TAPS_WITHOUT_PSI = ("batchnorm", "bn-conv")  # taps with only means and variances
_TERMS_WITHOUT_PSI = {("diagonal", "none"), ("identity", "mean")}


class BetaSchedule(Node):
    """The schedule of β_b during recovery (UniDD Eq. 19 and variants)."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"  #: how β_b falls from beta to 0
    origin: Literal[0, 1] = 0  #: first b; 1: β_b ends at 0 (paper); 0: β_b starts at beta (released code)
    per: Literal["round", "batch"] = "round"  #: one β_b per round of ipc, or one per batch
    beta_min: Annotated[float, Field(ge=0)] = 0.0  #: lower bound of β_b (β_min in Algorithm 1)


class Objective(Node):
    """The objective of recovery: terms over taps, plus cross-entropy (UniDD Eq. 20, 21)."""

    method: str = "cfm"  #: name of the method whose file provides the defaults of this section
    taps: TapName = "conv-input"  #: layers to match (docs/method.md)
    patch: Pixels = 0  #: side in pixels of the patches of conv inputs that are also matched (G-VBSM); 0: none
    signal: SignalName = "mean"  #: signal of the terms with `signal: chosen`
    beta: Annotated[float, Field(ge=0)] = 0.1  #: β of the filters at the start of the schedule
    schedule: BetaSchedule = BetaSchedule()
    #: name → value of the parameters in expressions; alpha may be null, which means 1/λ_max of each tap
    parameters: dict[str, Parameter | None] = Field(default_factory=dict)
    terms: tuple[Term, ...] = (
        Term(filter="ridge", signal="none", weight=0.1),
        Term(filter="ridge", signal="chosen", weight=0.1),
    )
    ce: Annotated[float, Field(ge=0)] = 1.0  #: weight of the cross-entropy
    first_tap: Annotated[float, Field(ge=0)] = 1.0  #: factor on the terms of the first tap (SRe²L: 10)
    #: gradient: scale the terms of each batch so that their first gradient is as long as that of the CE
    balance: Literal["none", "gradient"] = "none"

    @field_validator("parameters")
    @classmethod
    def _require_valid_parameters(cls, parameters: dict[str, float | None]) -> dict[str, float | None]:
        reserved = {expressions.LAMBDA, expressions.BETA, *expressions.GREEK_NAMES, *expressions.FUNCTIONS}
        for name, value in parameters.items():
            if not re.fullmatch(r"[A-Za-z]\w{0,23}", name) or iskeyword(name) or name in reserved:
                raise ValueError(f"'{name}' is not a valid parameter name; use another word")
            if name == expressions.ALPHA and value is not None and value <= 0:
                raise ValueError("alpha must be greater than 0; null means 1/λ_max of each tap")
            if name != expressions.ALPHA and value is None:
                raise ValueError(f"{name} needs a value; only alpha may be null, which means 1/λ_max")
        return parameters

    @model_validator(mode="after")
    def _require_valid_expressions(self) -> Objective:
        scope = {name: value for name, value in self.parameters.items() if value is not None}
        scope[expressions.BETA] = max(self.beta, self.schedule.beta_min)
        if expressions.ALPHA in self.parameters:
            scope.setdefault(expressions.ALPHA, 1.0 / float(expressions.PROBES[-1]))
        for number, term in enumerate(self.terms):
            for key, text in zip(("f", "f_synthetic"), term.sides, strict=False):
                path = f"objective.terms[{number}].{key}"
                try:
                    constant = expressions.is_constant(expressions.check(text, scope))
                except expressions.FormulaError as error:
                    raise ValueError(f"{path}: {_format_formula_error(text, error)}") from None
            if term.f is not None and constant and self.signal_of(term) == "none":
                raise ValueError(
                    f"{path}: {text!r} is constant, which without a signal is the same for all images"
                )
        return self

    @property
    def has_covariance(self) -> bool:
        """Whether the taps have the full Ψ, and not only variances."""
        return self.taps not in _TAPS_WITHOUT_PSI

    def signal_of(self, term: Term) -> SignalName:
        """Return the signal of a term, with `chosen` replaced by the objective's signal."""
        return self.signal if term.signal == "chosen" else term.signal

    def resolve_terms(self) -> tuple[Term, ...]:
        """Return the terms with `chosen` replaced by the objective's signal.

        A chosen term that duplicates another term is dropped: with the signal `none`, CFM is its filter term
        alone (Table 5, first row).
        """
        terms = [term for term in self.terms if term.signal != "chosen"]
        known = {(term.filter_key, term.signal) for term in terms}
        for term in self.terms:
            if term.signal == "chosen" and (term.filter_key, self.signal) not in known:
                known.add((term.filter_key, self.signal))
                terms.append(term.model_copy(update={"signal": self.signal}))
        return tuple(terms)

    def distinct_filters(self) -> list[Term]:
        """Return the first term of each filter, in order."""
        first_terms: dict[object, Term] = {}
        for term in self.terms:
            first_terms.setdefault(term.filter_key, term)
        return list(first_terms.values())

    @model_validator(mode="after")
    def _require_computable_terms(self) -> Objective:
        if not self.terms and self.ce == 0:
            raise ValueError("terms is empty and ce is 0, so there is nothing to optimise")
        if self.balance == "gradient" and self.ce == 0:
            raise ValueError("balance = gradient scales the terms by the cross-entropy, but ce = 0")
        for term in self.terms:
            signal = self.signal_of(term)
            if term.filter == "identity" and signal == "none":
                raise ValueError("signal = none makes the identity filter zero for all images")
            if not self.has_covariance and (term.filter, signal) not in _TERMS_WITHOUT_PSI:
                raise ValueError(
                    f"taps = {self.taps} has only means and variances, which the term {term.label} with"
                    f" signal {signal} cannot use; use diagonal with none, identity with mean,"
                    f" or taps conv-input"
                )
            if term.filter == "ridge" and max(self.beta, self.schedule.beta_min) == 0:
                raise ValueError("beta = 0 makes the ridge filter singular; set beta above 0")
        return self
