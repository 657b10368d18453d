"""Queries over runs: every operator, what is wrong with a query, and properties of the parser."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfm_tui.display import run_query
from cfm_tui.display.run_query import parse
from cfm_tui.display.run_summary import RunSummary
from engine.config import Config
from engine.errors import UserError

SETTINGS = {
    "recover.iterations": "4000  # preset x",
    "recover.lr": "0.25",
    "recover.emu": "true",
    "recover.micro_batch": "null",
    "recover.betas": "[0.5, 0.9]",
    "data.root": "'/my data'",
}
RUN = RunSummary(
    Path("runs/Digits-One"),
    "Digits-One",
    "running",
    "2020-01-01T00:00:00Z",
    "validate",
    data="digits",
    ipc=10,
    network="convnet",
    method="cfm",
    seed=0,
    accuracy={"mean": 55.4, "std": 0.7, "n": 3},
    difference=-1.5,
    verdict="not shown",
    seconds=7200.0,
    settings=SETTINGS,
)
UNKNOWN = RunSummary(Path("runs/lost"), "lost", "damaged")


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "one", "DIGITS", "'s-o'", "method=CFM", "method!=sre2l", "state=running ipc>=10",
        "ipc<11", "ipc=10", "ipc!=9", "acc>55", "acc<=55.4", "diff<0", "diff>=-1.5", "verdict='not shown'",
        'verdict="not shown" data=digits', "control=none", "acc!=none", "age>365d", "time=2h", "time<121min",
        "recover.iterations>=500", "recover.iterations=4e3", "recover.lr<1", "recover.emu=true",
        "recover.emu!=false", "recover.micro_batch=null", "recover.betas='[0.5, 0.9]'",
        "data.root='/my data'", "seed=0 network=convnet stage=validate",
    ],
)  # fmt: skip
def test_it_matches(text):
    assert parse(text).matches(RUN)


@pytest.mark.parametrize(
    "text",
    [
        "two", "method=cf", "method!=cfm", "state=running ipc>10", "acc>55.4", "control>0", "control<100",
        "acc=none", "left<1h", "recover.iterations<4000", "recover.lr=1", "recover.emu=false",
        "recover.micro_batch>1", "recover.micro_batch=4", "teacher!=none", "one two",
    ],
)  # fmt: skip
def test_it_does_not_match(text):
    assert not parse(text).matches(RUN)


@pytest.mark.parametrize("text", ["ipc=10", "acc>0", "acc<100", "method=cfm", "age<1000d", "recover.lr>0"])
def test_what_is_unknown_matches_no_comparison(text):
    assert not parse(text).matches(UNKNOWN)
    assert parse("method!=cfm ipc!=10 recover.lr!=1 acc=none").matches(UNKNOWN)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("state=running metod=cfm", "character 15: there is no key metod", "did you mean method?"),
        ("recover.itterations=3", "no key recover.itterations", "did you mean recover.iterations?"),
        ("iterations=3", "no key iterations", "did you mean recover.iterations?"),
        ("qqqqq=3", "no key qqqqq", "name, state"),
        ("acc>much", "acc is a number, and 'much' is not", "acc>10"),
        ("acc=", "acc= has no value", "ipc>=10"),
        ("acc==3", "acc= has no value", "the operators are"),
        ("recover.iterations=many", "recover.iterations is a number", "recover.iterations=10"),
        ("recover.betas>x", "recover.betas is a number", "recover.betas>10"),
        ("age<3", "age is a time", "age<12h"),
        ("state>new", "state is text, which > does not compare", "state="),
        ("ipc >= 10", "character 5: '>=' has no key", "without blanks"),
        ("x name='a b", "character 8: a quote is not closed", "name='my run'"),
        ("'", "character 1: a quote is not closed", "quotes"),
    ],
)
def test_what_is_wrong_is_told(text, said, hint):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.kind == "usage"
    assert said in caught.value.message
    assert hint in caught.value.hint


WORDS = st.text(st.characters(exclude_characters="'\"", exclude_categories=["Cs"]), min_size=1)


@given(st.text())
def test_any_text_is_a_query_or_a_user_error(text):
    problem = None
    try:
        parse(text).matches(RUN)
    except UserError as error:
        problem = error
    assert problem is None or (problem.message.startswith("query ") and problem.hint)


@given(st.lists(st.sampled_from(["one", "two", "ipc>5", "ipc>50", "method=cfm", "acc<1"]), max_size=5))
def test_blanks_mean_and(words):
    together = parse("  ".join(words))
    assert together.matches(RUN) == all(parse(word).matches(RUN) for word in words)


@given(WORDS, st.sampled_from(["'", '"']))
def test_a_quoted_value_is_taken_as_it_is(value, quote):
    text = f"name={quote}{value}{quote}"
    assert parse(text).matches(replace(RUN, name=value)) == (value.lower() not in ("none", "null"))
    assert parse(f"{quote}{value}{quote}").matches(replace(RUN, name=f"<{value}>"))


@given(st.floats(0, 100), st.floats(0, 100), st.sampled_from(list(run_query.OPERATORS)))
def test_numbers_are_compared_as_numbers(actual, wanted, symbol):
    run = replace(RUN, accuracy={"mean": actual, "std": None, "n": 1})
    expected = run_query.OPERATORS[symbol](actual, wanted)
    assert parse(f"acc{symbol}{wanted!r}").matches(run) == expected
    assert parse(f"recover.lr{symbol}{wanted!r}").matches(
        replace(RUN, settings={"recover.lr": f"{actual:f}"})
    ) == run_query.OPERATORS[symbol](float(f"{actual:f}"), wanted)


@given(st.sampled_from(sorted(Config.leaf_keys())))
def test_every_setting_is_a_key(key):
    assert parse(f"{key}!=none").matches(RUN) == (RUN.setting(key) is not None or key in ("ipc", "seed"))
