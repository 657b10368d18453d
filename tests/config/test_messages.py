"""Every mistake in a configuration ends in a UserError that names the key.

Mistakes are made in every preset under every protocol. CFM_TEST_CONFIGS sets their number (1,000).
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commandline import call
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.config import Config, settings, yaml_io
from engine.errors import UserError

EXAMPLES = int(os.environ.get("CFM_TEST_CONFIGS", "1000"))
KEYS = Config.leaf_keys()
SECTIONS = sorted({key.rsplit(".", 1)[0] for key in KEYS if "." in key})
OPTIONAL = {"data.root", "backbone.teacher"}
PATHS = {"backbone.also_teachers"}  # lists of files, which may have nearly any name
LITERALS = {"objective.schedule.origin"}  # 0 and 1, which true and false are too
NAMES = sorted({key.rsplit(".", 1)[-1] for key in KEYS})
Source = tuple[str, str]  # preset, protocol
VALID: dict[Source, dict[str, Any]] = {
    (preset, protocol): settings.resolve(preset=preset, overrides={"protocol": protocol}).config.flatten()
    for preset in settings.preset_names()
    for protocol in settings.PROTOCOLS
}
Mistake = tuple[str, Any, str]  # key, value, and the name that the message must contain
letters = st.text("abcdefghijklmnopqrstuvwxyz_-é", min_size=1, max_size=8)
mappings = st.dictionaries(letters, st.integers(), min_size=1, max_size=2)


def wrong_values(key: str, value: Any) -> st.SearchStrategy[Any]:
    """Values that are never valid for a key whose value is `value`."""
    if isinstance(value, bool):
        return letters.filter(_is_text) | st.integers() | st.floats() | mappings | st.none()
    if key in LITERALS:
        return letters.filter(_is_text) | st.integers(min_value=2) | mappings | st.none()
    if isinstance(value, int):
        return (
            letters.filter(_is_text)
            | st.booleans()
            | st.integers(max_value=-1)
            | st.sampled_from([0.5, 10**39])
            | mappings
        )
    if isinstance(value, float):
        return letters.filter(_is_text) | st.booleans() | st.just(float("nan")) | st.floats(max_value=-1e-9)
    if isinstance(value, str):
        return st.integers() | st.booleans() | mappings | st.none() | letters.map(lambda text: f"{text}-x9")
    if isinstance(value, list):
        entry = "nul\0" if key in PATHS else "?"
        return letters.filter(_is_text) | st.integers() | st.lists(st.just(entry), min_size=1) | mappings
    if isinstance(value, dict):
        return letters.filter(_is_text) | st.integers() | st.booleans() | st.lists(st.integers()) | st.none()
    return mappings | st.lists(mappings, min_size=1) | st.just(True) | st.floats(max_value=-0.1)


def _is_text(text: str) -> bool:
    return isinstance(yaml_io.parse(text, "here"), str)


@st.composite
def mistakes(draw: st.DrawFn, source: Source) -> Mistake:
    """A wrong value, a misspelled key, a key of another section, or a value instead of a section."""
    key = draw(st.sampled_from(KEYS))
    kind = draw(st.sampled_from(["value", "value", "misspelt", "elsewhere", "section"]))
    if kind == "section":
        section = draw(st.sampled_from(SECTIONS))
        return section, draw(st.integers() | st.none() | st.lists(st.integers()) | st.booleans()), section
    if kind == "elsewhere":
        key = f"{draw(st.sampled_from(SECTIONS))}.{draw(st.sampled_from(NAMES))}"
        return (key, 1, key) if key not in {*KEYS, *SECTIONS} else ("recover.epochs", 1, "recover.epochs")
    value = VALID[source][key]
    if kind == "misspelt":
        at = draw(st.integers(0, len(key)))
        key = key[:at] + draw(st.sampled_from(["x", "_", "9"])) + key[at:]
        named = next(part for part in _prefixes(key) if part not in KEYS and part not in SECTIONS)
        return key, value, named
    if key in OPTIONAL:
        text = st.sampled_from(["nul\0", "~nobody/a", "x" * 300, "y/" * 3000])
        return key, draw(st.integers() | st.booleans() | mappings | text), key
    return key, draw(wrong_values(key, value)), key


@st.composite
def corruptions(draw: st.DrawFn) -> tuple[Source, list[Mistake]]:
    """A valid configuration, and one mistake, or two in different sections."""
    source = draw(st.sampled_from(sorted(VALID)))
    first, second = draw(mistakes(source)), draw(mistakes(source))
    apart = first[0].split(".")[0] != second[0].split(".")[0]
    return source, [first, second] if apart and draw(st.booleans()) else [first]


def require_named(message: str, made: list[Mistake]) -> None:
    """Require that every mistake is named; an unknown protocol or method may be the only one."""
    named_ones = [named in message for _, _, named in made]
    first = any(key.split(".")[0] in ("protocol", "objective") for key, _, _ in made)
    assert any(named_ones) if first else all(named_ones), message


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@given(corruptions(), st.booleans())
@hypothesis_settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_corrupted_keys_are_named(corruption: tuple[Source, list[Mistake]], as_text: bool) -> None:
    (preset, protocol), made = corruption
    overrides: dict[str, Any] = {"protocol": protocol}
    sets = []
    for key, value, _ in made:
        if as_text or value is None or key == "protocol":  # an override of None was not given
            sets.append(f"{key}={yaml_io.inline(value)}")
            overrides.pop(key, None)
        else:
            overrides[key] = value
    with pytest.raises(UserError) as caught:
        settings.resolve(preset=preset, sets=sets, overrides=overrides)
    assert caught.value.kind == "config"
    assert caught.value.hint
    require_named(caught.value.message, made)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which everything that a command writes would appear."""
    for variable in ("CFM_RUNS", "CFM_CACHE", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "made" / variable))
    (tmp_path / "made").mkdir()
    return tmp_path


def refused_by_the_command(capsys: Any, folder: Path, config: Path, *words: str) -> str:
    """Return the message of `cfm run --config` for a file; require that nothing is written."""
    words = ("run", "--config", str(config), "--out", str(folder / "made" / "run"), *words)
    out, err = call(capsys, *words, code=2)
    assert out == ""
    assert err.startswith("cfm: ")
    assert "\n→ " in err
    assert "Traceback" not in err
    document = json.loads(call(capsys, *words, "--json", code=2)[0])
    assert document["error"]["kind"] == "config"
    assert document["error"]["message"] in err
    assert list((folder / "made").iterdir()) == []
    return err


def nested(made: list[Mistake]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value, _ in made:
        *parents, name = key.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = value
    return tree


@given(corruptions())
@hypothesis_settings(
    max_examples=max(EXAMPLES // 8, 1),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_command_names_them_too_and_writes_nothing(
    capsys: Any, nowhere: Path, corruption: tuple[Source, list[Mistake]]
) -> None:
    (preset, protocol), made = corruption
    tree = {"extends": preset, "protocol": protocol, **nested(made)}
    lines = [f"{yaml_io.inline(key)}: {yaml_io.inline(value)}" for key, value in tree.items()]
    config = nowhere / "mine.yaml"
    config.write_text("\n".join(lines), encoding="utf-8")
    require_named(refused_by_the_command(capsys, nowhere, config), made)


FILES: dict[str, tuple[bytes, str]] = {
    "binary": (bytes(range(256)), "not UTF-8"),
    "zeros": (bytes(1000), "special characters"),
    "another encoding": ("ipc: 1".encode("utf-16"), "not UTF-8"),
    "a list": (b"- ipc: 1\n", "no keys"),
    "a number": (b"5\n", "no keys"),
    "a sentence": (b"cifar10-10\n", "no keys"),
    "two documents": (b"ipc: 1\n---\nipc: 2\n", "line 2"),
    "no end": (b"recover: {lr: 1\n", "line 2"),
    "a tab": (b"recover:\n\tlr: 1\n", "line 2"),
    "twice": (b"recover:\n  lr: 1\n  lr: 2\n", "'lr' is repeated"),
    "too large": (b"#" * (yaml_io.MAX_BYTES + 1), "larger than"),
    "too deep": (b"ipc: " + b"[" * 5000, "nested"),
    "laughs": (b"a: &a [x, x]\nb: &b [*a, *a]\n", "anchors"),
    "code": (b"ipc: !!python/object/apply:os.system ['touch made/owned']\n", "tag"),
    "half a character": (b'data: {root: "\\ud800"}\n', "half a character"),
    "no character": (b'data: {root: "\\UFFFFFFFF"}\n', "an escape"),
    "digits without end": (b"ipc: " + b"9" * 5000, "not a whole number"),
    "a number beyond": (b"recover: {lr: 1e999}", "recover.lr"),
    "a dotted key": (b"recover.lr: 1\n", "recover.lr"),
    "an empty section": (b"recover:\n", "recover = null"),
    "base of a kind": (b"extends: [smoke]\n", "extends = [smoke]"),
    "base unknown": (b"extends: smoek\n", "smoek"),
    "base outside": (b"extends: ../../etc/passwd\n", "unknown preset"),
    "base lost": (b"extends: lost.yaml\n", "lost.yaml does not exist"),
    "base with zero": (b'extends: "\\0.yaml"\n', "does not exist"),
    "its own base": (b"extends: mine.yaml\n", "circle"),
    "no protocols": (b"protocols: [paper]\n", "protocols = [paper]"),
    "unknown protocol": (b"protocols: {papre: {}}\n", "papre"),
    "protocol in itself": (b"protocols: {paper: {protocol: cfm}}\n", "protocols.paper.protocol"),
    "protocol of a kind": (b"protocols: {paper: 5}\n", "protocols.paper = 5"),
    "wrong in a protocol": (b"protocol: paper\nprotocols: {paper: {ipc: 0}}\n", "ipc = 0"),
    "another's key": (b"squeeze: {iterations: 5}\n", "squeeze.iterations"),
    "the field's name": (b"validate_: {epochs: 1}\n", "validate_"),
    "unknown method": (b"objective: sre3l\n", "sre3l"),
    "method of a kind": (b"objective: {method: [cfm]}\n", "objective.method"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_invalid_file_is_refused_with_the_reason(capsys: Any, nowhere: Path, name: str) -> None:
    data, message = FILES[name]
    (nowhere / "mine.yaml").write_bytes(data)
    assert message in refused_by_the_command(capsys, nowhere, nowhere / "mine.yaml")


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "link to nothing", "device", "long"])
def test_a_path_that_is_not_a_file_does_not_block(capsys: Any, nowhere: Path, kind: str) -> None:
    path = nowhere / "mine.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(nowhere / "lost.yaml")
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "long":
        path = nowhere / ("x" * 5000)
    assert str(path) in refused_by_the_command(capsys, nowhere, path)


def test_flags_and_variables_are_refused_alike(
    capsys: Any, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = nowhere / "mine.yaml"
    config.write_text("extends: smoke\n")
    for words, message in (
        (("--set", "recover.lr"), "recover.lr"),
        (("--set", "recover.lr=-1"), "recover.lr"),
        (("--set", "recover.lr=[1"), "recover.lr"),
        (("--set", "recover.lr=&a 1"), "recover.lr"),
        (("--set", "a" + ".a" * 5000 + "=1"), "a.a.a"),
        (("--set", f"ipc={'9' * 5000}"), "ipc"),
        (("--device", "gpu"), "device"),
        (("--data-root", "x\udcff"), "data.root"),
        (("--teacher", "x\udcff"), "backbone.teacher"),
        (("--teacher", "x" * 5000), "backbone.teacher"),
        (("--preset", "smoke"), "extends a preset"),
    ):
        assert message in refused_by_the_command(capsys, nowhere, config, *words), words
    for variable, text, message in (
        ("CFM_RECOVER__LR", "much", "recover.lr"),
        ("CFM_RECOVER__LR", "\udcff", "CFM_RECOVER__LR"),
        ("CFM_RECOVER__", "1", "recover."),
        ("CFM_DATA_ROOT", "\udcff", "data.root"),
        ("CFM_TEACHER", "\udcff", "backbone.teacher"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, text)
            assert message in refused_by_the_command(capsys, nowhere, config), variable


@given(st.data())
@hypothesis_settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_damaged_file_is_valid_or_refused(tmp_path: Path, data: st.DataObject) -> None:
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
def test_no_environment_causes_another_error(environ: dict[str, str]) -> None:
    with suppress(UserError):
        settings.resolve(environ={f"CFM_{name}": text for name, text in environ.items()})
