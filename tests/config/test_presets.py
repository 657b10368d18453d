"""Every shipped preset resolves to the recorded settings.

`cfm.yaml`, `paper.yaml` and `reference.yaml` in tests/golden/presets are the preset `cifar10-10` under each
protocol; `differences.yaml` says how every preset differs from them.
After an intended change: UPDATE_GOLDEN=1 pytest tests/config/test_presets.py
"""

import os
from importlib.resources import files
from pathlib import Path

import pytest

from engine.config import Data, settings, yaml_io

GOLDEN = Path(__file__).parents[1] / "golden" / "presets"
BASE = "cifar10-10"


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "UPDATE_GOLDEN=1 pytest tests/config/test_presets.py"


@pytest.mark.parametrize("protocol", settings.PROTOCOLS)
def test_a_resolved_preset_is_as_recorded_under_each_protocol(protocol: str) -> None:
    got = settings.resolve(preset=BASE, overrides={"protocol": protocol})
    compare(protocol, settings.to_yaml(got.config, got.origins))


def test_every_other_preset_differs_from_it_as_recorded() -> None:
    def differences(preset: str, protocol: str) -> set[str]:
        lines = []
        for name in (preset, BASE):
            values = settings.resolve(preset=name, overrides={"protocol": protocol}).config.flatten()
            lines.append({f"  {key}: {yaml_io.inline(value)}\n" for key, value in values.items()})
        return lines[0] - lines[1]

    text = "# Settings that differ from the protocol's file: under every protocol, then under one alone.\n"
    for preset in settings.preset_names():
        by_protocol = {protocol: differences(preset, protocol) for protocol in settings.PROTOCOLS}
        shared = set.intersection(*by_protocol.values())
        text += f"{preset}:{'' if shared else ' {}'}\n" + "".join(sorted(shared))
        for protocol, lines in by_protocol.items():
            if lines - shared:
                text += f"{preset}, {protocol}:\n" + "".join(sorted(lines - shared))
    compare("differences", text)


def test_there_is_no_unused_golden_file() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {*settings.PROTOCOLS, "differences"}


def test_the_shipped_presets_are_complete() -> None:
    cifar = {f"cifar{k}-{ipc}{suffix}" for k in (10, 100) for ipc in (10, 50) for suffix in ("", "-convnet")}
    assert set(settings.preset_names()) == cifar | {
        "digits",
        "smoke",
        "tiny50",
        "tiny100",
        "imagenet10",
        "imagenet50",
        "imagenet100",
    }


def test_files_are_described_and_fit_on_a_screen() -> None:
    for entry in files("presets").iterdir():
        if entry.name.endswith(".yaml"):
            lines = entry.read_text(encoding="utf-8").splitlines()
            assert len(lines) <= 24, entry.name
            assert max(map(len, lines)) <= 110, entry.name
            assert settings.describe(entry.name[:-5]), entry.name
    for protocol in settings.PROTOCOLS:
        assert settings.describe(protocol, "protocols")
    for method in settings.method_names():
        assert settings.describe(method, "methods")
        values = yaml_io.parse(files("presets").joinpath(f"methods/{method}.yaml").read_text("utf-8"), method)
        assert {"description", "formula", "source", "objective"} <= set(values)
        assert set(values.get("datasets", ())) <= set(Data.model_fields["name"].annotation.__args__)


def test_protocols_are_the_table_of_the_paper_and_the_released_code() -> None:
    def of(preset: str, protocol: str) -> dict[str, object]:
        return settings.resolve(preset=preset, overrides={"protocol": protocol}).config.flatten()

    def holds(preset: str, protocol: str, **expected: object) -> None:
        got = of(preset, protocol)
        for key, value in expected.items():
            assert got[key.replace("__", ".")] == value, (preset, protocol, key)

    holds("cifar10-10", "paper", squeeze__epochs=200, validate__batch=64, validate__temperature=30)
    holds("cifar100-50", "paper", squeeze__epochs=100, validate__optimiser__name="sgd", objective__beta=0.1)
    holds("cifar100-50", "paper", validate__optimiser__lr=0.1, validate__optimiser__weight_decay=5e-4)
    holds("tiny50", "paper", squeeze__epochs=50, squeeze__batch=256, objective__beta=1.0, recover__lr=0.1)
    holds("tiny50", "paper", validate__optimiser__lr=0.2, validate__epochs=300, validate__temperature=20)
    holds("imagenet10", "paper", recover__classes_per_batch=500, validate__batch=100)
    holds("imagenet10", "paper", squeeze__optimiser__schedule="step", validate__optimiser__weight_decay=1e-4)
    holds("tiny100", "reference", squeeze__epochs=100, squeeze__batch=128, objective__beta=0.1)
    holds("tiny100", "reference", validate__views__crop_scale=[0.5, 1.0], statistics__batch=256)
    batches = {"cifar10-10": 50, "cifar10-50": 100, "cifar100-10": 100, "cifar100-50": 200, "imagenet50": 100}
    for preset, batch in batches.items():
        holds(preset, "reference", validate__batch=batch, validate__optimiser__schedule="half-cosine")
        holds(preset, "cfm", validate__batch=batch)
    for preset in settings.preset_names():
        holds(
            preset,
            "paper",
            objective__taps="all-conv-output",
            objective__signal="class",
            recover__init="random",
        )
        holds(
            preset, "reference", objective__taps="conv-input", objective__signal="mean", recover__init="first"
        )


def test_one_image_per_class_starts_and_trains_as_the_released_code_does() -> None:
    def at(preset: str, protocol: str) -> tuple[str, int]:
        config = settings.resolve(preset=preset, sets=[f"protocol={protocol}", "ipc=1"]).config
        return config.recover.init, config.validate_.batch

    assert at("tiny50", "reference") == ("tiles", 100)
    assert at("imagenet10", "reference") == ("tiles", 20)
    assert at("cifar10-10", "reference") == at("cifar10-50-convnet", "reference") == ("first", 10)
    assert at("cifar100-10", "reference") == at("cifar100-50", "reference") == ("first", 20)
    presets = ("tiny50", "imagenet10", "cifar10-10", "cifar100-10")
    assert [at(preset, "cfm") for preset in presets] == [("first", b) for b in (100, 100, 50, 100)]
    assert [at(preset, "paper") for preset in presets] == [("random", b) for b in (64, 100, 64, 64)]
