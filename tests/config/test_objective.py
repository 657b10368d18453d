"""Expressions and parameters as settings, and user methods."""

from __future__ import annotations

import pytest

from cfm_tui.display.plot_data import objective_of
from engine.config import Objective, presets, settings
from engine.config.settings import resolve
from engine.errors import UserError

MINE = """
description: A steeper ridge
source: my notes
objective:
  parameters: {a: 2}
  terms: [{f: 1/(lambda+beta)**a, signal: mean, weight: 0.2}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path / "presets"))
    return tmp_path / "presets" / "methods"


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def refused(*sets):
    with pytest.raises(UserError) as caught:
        resolve(sets=sets)
    assert caught.value.kind == "config"
    return caught.value


# --- expressions -----------------------------------------------------------------------------------


def test_an_expression_is_written_as_it_was_given(tmp_path):
    got = resolve(sets=['objective.terms=[{f: "1/(lambda+beta)**2", signal: mean, weight: 0.1}]'])
    (term,) = got.config.objective.terms
    assert (term.f, term.title) == ("1/(lambda+beta)**2", "1/(lambda+beta)**2/mean")
    text = settings.to_yaml(got.config, got.origins)
    assert "terms: [{f: 1/(lambda+beta)**2, signal: mean, weight: 0.1}]  # flag" in text
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert resolve(file=file).config == got.config


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            "{f: 1/(lamda+beta), signal: mean}",
            "objective.terms[0].f: '1/(lamda+beta)' contains the unknown",
        ),
        ("{f: 'lambda^2'}", "objective.terms[0].f: 'lambda^2' contains '^2'"),
        ("{f: beta*2}", "objective.terms[0].f: 'beta*2' is constant, which without a signal"),
        ("{f: beta*2, signal: chosen}", ""),
        ("{f: beta*2, f_synthetic: lambda}", ""),
        ("{f: lambda, f_synthetic: beta*2}", "objective.terms[0].f_synthetic: 'beta*2' is constant"),
        ("{f: lambda, f_synthetic: gamma*lambda}", "objective.terms[0].f_synthetic: 'gamma*lambda'"),
        ("{f: lambda, filter: ridge}", "objective.terms[0]: a term has either"),
        ("{signal: mean}", "objective.terms[0]: a term has either"),
        ("{filter: ridge, f_synthetic: lambda}", "only with f"),
        ("{f: lambda, name: a b}", "objective.terms[0].name"),
        ("{f: 3}", "objective.terms[0].f = 3 must be text"),
    ],
)
def test_an_invalid_expression_is_named_by_its_key(terms, message):
    sets = [f"objective.terms=[{terms}]"]
    if message:
        assert message in refused(*sets).message
    else:
        assert resolve(sets=sets).config.objective.terms[0].f == "beta*2" or "lambda" in sets[0]


def test_taps_with_only_means_and_variances_take_no_expression():
    error = refused("objective.taps=batchnorm", "objective.terms=[{f: lambda**2, signal: mean}]")
    assert "the term lambda**2 with signal mean" in error.message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{beta: 1}", "'beta' is not a valid parameter name"),
        ("{sqrt: 1}", "'sqrt' is not a valid"),
        ("{in: 1}", "'in' is not a valid"),
        ("{a-b: 1}", "'a-b' is not a valid"),
        ("{P: null}", "P needs a value"),
        ("{alpha: 0}", "alpha must be greater than 0"),
        ("{P: text}", "objective.parameters.P = text must be a number"),
        ("{P: .inf}", "objective.parameters.P"),
        ("3", "objective.parameters = 3 must be a section"),
    ],
)
def test_parameters_are_numbers_with_unreserved_names(value, message):
    assert message in refused(f"objective.parameters={value}").message


def test_changing_one_parameter_keeps_the_others():
    got = resolve(sets=["objective=mtt", "objective.parameters.P=7"])
    assert got.config.objective.parameters == {"alpha": None, "P": 7.0, "Q": 5.0}
    assert got.origins["objective.parameters"] == "flag"
    assert resolve(sets=["objective=mtt"]).origins["objective.parameters"] == "method mtt"
    assert resolve().origins["objective.parameters"] == "default"
    assert "whole n from 1" in refused("objective=mtt", "objective.parameters.P=2.5").message


def test_a_chosen_signal_that_repeats_a_term_gives_one_term():
    for term in ("f: lambda**2", "filter: ridge"):
        sets = [f"objective.terms=[{{{term}}}, {{{term}, signal: chosen}}]", "objective.signal=none"]
        assert len(resolve(sets=sets).config.objective.resolve_terms()) == 1


# --- user methods ----------------------------------------------------------------------------------


def test_a_user_method_is_named_like_a_shipped_one(folder):
    write(folder, "mine", MINE)
    got = resolve(preset="smoke", sets=["objective=mine"])
    assert got.config.objective.method == "mine"
    assert got.config.objective.terms[0].weight == 0.2
    assert got.origins["objective.terms"] == "user method mine"
    assert settings.method_names()[-1] == "mine"
    assert settings.describe("mine", "methods") == "A steeper ridge"
    assert "'mine'" in refused("objective=mien").hint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dm", MINE, "ships with the program"),
        ("mine", "objective: [\n", "line"),
        ("mine", "objective: {method: cfm}\n", "has no objective section"),
        ("mine", "description: nothing\n", "has no objective section"),
        ("mine", "extends: smoke\nobjective: {beta: 1}\n", "has `extends:`"),
    ],
)
def test_an_invalid_method_file_has_a_reason(folder, name, text, message):
    write(folder, name, text)
    assert message in refused(f"objective={name}").message
    (method,) = presets.user_presets("methods")
    assert message in method.problem
    assert resolve(sets=["objective=cfm"]).config.objective.method == "cfm"


def test_a_run_does_not_change_when_the_methods_file_changes_or_is_deleted(folder, tmp_path):
    write(folder, "mine", MINE)
    got = resolve(sets=["objective=mine"])
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml(got.config, got.origins), encoding="utf-8")
    for change in (
        lambda: write(folder, "mine", "objective: {beta: 3, parameters: {b: 1}, terms: [{filter: lambda}]}"),
        (folder / "mine.yaml").unlink,
    ):
        change()
        assert resolve(file=file, base=None).config == got.config
        assert objective_of(tmp_path) == got.config.objective
    file.write_text("objective: {method: mine, beta: 1}\n", encoding="utf-8")
    with pytest.raises(UserError, match="unknown method 'mine'"):
        resolve(file=file, base=None)
    assert objective_of(tmp_path).terms == ()


def test_terms_cannot_be_balanced_against_nothing() -> None:
    with pytest.raises(ValueError, match="ce = 0"):
        Objective(balance="gradient", ce=0)
