"""Whatever a person gets wrong in a valid configuration ends in a UserError that names the key."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine import settings, yaml_file
from engine.config import Config
from engine.errors import UserError
from engine.problems import leaves

KEYS = leaves(Config)
SECTIONS = sorted({key.rsplit(".", 1)[0] for key in KEYS if "." in key})
OPTIONAL = {"data.root", "backbone.teacher"}
VALID = {name: settings.flat(settings.resolve(preset=name).config) for name in settings.preset_names()}
letters = st.text("abcdefghijklmnopqrstuvwxyz_-é", min_size=1, max_size=8)
mappings = st.dictionaries(letters, st.integers(), min_size=1, max_size=2)


def wrong_values(key: str, value: Any) -> st.SearchStrategy[Any]:
    """Values that can never be right for a key that now has `value`."""
    if isinstance(value, bool):
        return letters.filter(_is_text) | st.integers() | st.floats() | mappings | st.none()
    if isinstance(value, int):
        return letters.filter(_is_text) | st.booleans() | st.integers(max_value=-1) | st.just(0.5) | mappings
    if isinstance(value, float):
        return letters.filter(_is_text) | st.booleans() | st.just(float("nan")) | st.floats(max_value=-1e-9)
    if isinstance(value, str):
        return st.integers() | st.booleans() | mappings | st.none() | letters.map(lambda text: f"{text}-x9")
    if isinstance(value, list):
        return letters.filter(_is_text) | st.integers() | st.lists(st.just("?"), min_size=1) | mappings
    return mappings | st.lists(mappings, min_size=1) | st.just(True) | st.floats(max_value=-0.1)


def _is_text(text: str) -> bool:
    return isinstance(yaml_file.parse(text, "here"), str)


@st.composite
def corruptions(draw: st.DrawFn) -> tuple[str, str, Any, str]:
    """A preset, a key, a value, and what the message has to name."""
    preset = draw(st.sampled_from(sorted(VALID)))
    key = draw(st.sampled_from(KEYS))
    kind = draw(st.sampled_from(["value", "value", "misspelt", "section"]))
    if kind == "section":
        section = draw(st.sampled_from(SECTIONS))
        wrong = st.integers() | st.none() | st.lists(st.integers()) | st.booleans()
        return preset, section, draw(wrong), section
    value = VALID[preset][key]
    if kind == "misspelt":
        at = draw(st.integers(0, len(key)))
        key = key[:at] + draw(st.sampled_from(["x", "_", "9"])) + key[at:]
        named = next(part for part in _prefixes(key) if part not in KEYS and part not in SECTIONS)
        return preset, key, value, named
    if key in OPTIONAL:  # any text is a path
        return preset, key, draw(st.integers() | st.booleans() | mappings), key
    return preset, key, draw(wrong_values(key, value)), key


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@given(corruptions(), st.booleans())
@hypothesis_settings(max_examples=600, deadline=None, derandomize=True)
def test_a_corrupted_key_is_named(corruption: tuple[str, str, Any, str], as_text: bool) -> None:
    preset, key, value, named = corruption
    layer: dict[str, Any] = {"overrides": {key: value}}
    if as_text or value is None:  # an override of None was not given
        layer = {"sets": [f"{key}={yaml_file.inline(value)}"]}
    with pytest.raises(UserError) as caught:
        settings.resolve(preset=preset, **layer)
    assert caught.value.kind == "config"
    assert named in caught.value.message
    assert caught.value.hint


@given(st.data())
@hypothesis_settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_damaged_file_is_right_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = settings.to_yaml(settings.resolve(preset="smoke").config)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.text(max_size=2)) + text[at + data.draw(st.integers(0, 3)) :]
    path = tmp_path / "damaged.yaml"
    path.write_text(text, encoding="utf-8")
    with suppress(UserError):
        assert isinstance(settings.resolve(file=path).config, Config)


@given(st.dictionaries(st.text(), st.text(), max_size=3))
@hypothesis_settings(max_examples=100, deadline=None, derandomize=True)
def test_no_environment_breaks_anything_else(environ: dict[str, str]) -> None:
    with suppress(UserError):
        settings.resolve(environ={f"CFM_{name}": text for name, text in environ.items()})
