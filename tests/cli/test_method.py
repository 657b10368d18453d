"""`cfm method`: every method told of, what it lets through, and curves that are the formulas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from commandline import REPOSITORY, call, call_json

from engine.config.presets import load_shipped

PASSES = {  # as the paper's Table 1 sorts them, but for DM, whose f is constant
    "cfm": [["high-pass", "high-pass"]],
    "dc": [["low-pass", "all-pass"]],
    "dm": [["all-pass"]],
    "frepo": [["high-pass"]],
    "hfm": [["high-pass", "high-pass"]],
    "lfm": [["low-pass", "low-pass"]],
    "mtt": [["high-pass", "high-pass"], ["high-pass", "high-pass"]],
    **{name: [["low-pass", "all-pass"]] for name in ("sre2l", "cda", "dwa", "gvbsm")},
}


TERMLESS = ("random", "rded")  # they optimise nothing


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_PRESETS", str(tmp_path))
    (tmp_path / "methods").mkdir()
    return tmp_path / "methods"


def test_list_has_all_and_says_which_of_ones_own_cannot_be_used(capsys, folder):
    (folder / "mine.yaml").write_text("description: A steeper ridge\nobjective: {beta: 1}\n")
    (folder / "torn.yaml").write_text("objective: [\n")
    document = call_json(capsys, "method-list", "method", "list")
    assert [each["name"] for each in document["methods"]] == sorted([*PASSES, *TERMLESS])
    assert {each["name"]: "problem" in each for each in document["own"]} == {"mine": False, "torn": True}
    text, _ = call(capsys, "method", "list")
    for each in [*document["methods"], document["own"][0]]:
        assert each["name"] in text
        assert each["description"] in text
    assert f"your methods, in {folder}" in text
    assert "cannot be used" in text


@pytest.mark.parametrize("method", PASSES)
def test_show_tells_of_every_method(capsys, method):
    document = call_json(capsys, "method-show", "method", "show", method)
    file = load_shipped("methods", method)
    assert [document[key] for key in ("description", "formula", "source")] == [
        file[key] for key in ("description", "formula", "source")
    ]
    found = [[term["passes"] for term in document["terms"]]]
    found += [[term["passes_synthetic"] for term in document["terms"] if term["f_synthetic"]]]
    assert [each for each in found if each] == PASSES[method]
    text, _ = call(capsys, "method", "show", method)
    for words in (document["formula"], document["source"], *PASSES[method][0], "|f(λ)|", " λ\n"):
        assert words in text
    assert "\x1b" not in text


@pytest.mark.parametrize("method", TERMLESS)
def test_show_tells_of_methods_without_terms(capsys, method):
    document = call_json(capsys, "method-show", "method", "show", method)
    assert document["terms"] == document["curves"] == []
    text, _ = call(capsys, "method", "show", method)
    assert document["formula"] != "x"
    assert "nothing is optimised" in text
    assert "cross-entropy ×" not in text  # it has no objective
    assert document["formula"] in text


def test_its_curves_are_the_formulas(capsys):
    document = call_json(capsys, "method-show", "method", "show", "mtt", "--set", "objective.parameters.P=3")
    at = np.array(document["eigenvalues"])
    alpha = 1 / at.max()
    curves = {curve["name"]: np.array(curve["values"]) for curve in document["curves"]}
    np.testing.assert_allclose(curves["power"], (1 - alpha * at) ** 3)
    np.testing.assert_allclose(curves["power of Ψ_s"], (1 - alpha * at) ** 5)
    np.testing.assert_allclose(curves["series"], sum(alpha * (1 - alpha * at) ** p for p in range(3)))
    document = call_json(capsys, "method-show", "method", "show", "cfm", "--set", "ipc=2")
    first, last = document["betas"]
    assert (first, last) == (0.1, pytest.approx(0.05))
    np.testing.assert_allclose(document["curves"][1]["values"], 1 / (at + last))


@pytest.mark.parametrize(("f", "passes"), [("lambda*(5 - lambda)**2", "mixed"), ("log(lambda - 1)", "mixed")])
def test_show_takes_ones_own_by_name_and_by_file(capsys, folder, f, passes):
    text = f"description: Mine\nsource: notes\nobjective: {{terms: [{{f: '{f}', signal: mean}}]}}\n"
    (folder / "mine.yaml").write_text(text)
    for name in ("mine", folder / "mine.yaml"):
        document = call_json(capsys, "method-show", "method", "show", name)
        assert document["path"] == str(folder / "mine.yaml")
        assert document["source"] == "notes"
        assert (document["terms"][0]["f"], document["terms"][0]["passes"]) == (f, passes)
        assert f in call(capsys, "method", "show", name)[0]


def test_what_is_wrong_is_said(capsys, tmp_path):
    assert "Did you mean 'mtt'?" in call(capsys, "method", "show", "mt", code=2)[1]
    assert "nowhere.yaml" in call(capsys, "method", "show", tmp_path / "nowhere.yaml", code=2)[1]
    sets = ["--set", "objective.terms=[{f: lamda}]"]
    assert "objective.terms[0].f" in call(capsys, "method", "show", "cfm", *sets, code=2)[1]


def test_a_method_without_terms_has_no_chart(capsys):
    text, _ = call(capsys, "method", "show", "cfm", "--set", "objective.terms=[]")
    assert "cross-entropy" in text
    assert "f(λ)" not in text


def test_a_terminal_without_utf8_gets_ascii():
    command = [sys.executable, "-m", "cfm_tui", "method", "show", "mtt"]
    environ = {"LC_ALL": "C", "PATH": "/usr/bin", "CFM_PRESETS": "/dev/null", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, check=True)
    assert done.stdout.isascii()
    assert b"high-pass" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("module", ["engine", "pydantic", "yaml", "torch", "numpy"])
def test_the_command_imports_little(module):
    code = f"import sys, cfm_tui.cli.method; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
