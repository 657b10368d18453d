import json
import sys
from pathlib import Path
from subprocess import run

import pytest
from typer.testing import CliRunner

from cfm_tui.cli.preset import app
from engine.config import settings, yaml_io


def cfm_preset(*words: str, code: int = 0, **options: object) -> str:
    result = CliRunner().invoke(app, list(words), **options)  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    return result.stdout


def test_list() -> None:
    text = cfm_preset("list")
    document = json.loads(cfm_preset("list", "--json"))
    assert document["schema_version"] == 1
    assert [each["name"] for each in document["presets"]] == settings.preset_names()
    for each in [*document["presets"], *document["protocols"], *document["methods"]]:
        assert each["name"] in text
        assert each["description"] in text


def test_show_prints_the_file_or_what_it_means() -> None:
    assert yaml_io.parse(cfm_preset("show", "smoke"), "smoke")["extends"] == "digits"
    resolved = cfm_preset("show", "smoke", "--resolved", "--set", "seed=3", env={"CFM_IPC": "2"})
    lines = {line.split(":")[0].strip(): line for line in resolved.splitlines()}
    assert lines["seed"].split() == ["seed:", "3", "#", "flag"]
    assert lines["ipc"].endswith("# environment CFM_IPC")
    document = json.loads(cfm_preset("show", "smoke", "--json"))
    assert document["config"]["recover"]["iterations"] == 3
    assert document["origins"]["recover.iterations"] == "preset smoke"


def test_validate_checks_every_protocol(tmp_path: Path) -> None:
    assert cfm_preset("validate").count(": valid\n") == len(settings.preset_names())
    path = tmp_path / "a.yaml"
    path.write_text("protocols: {paper: {validate: {batch: 0}}}\n")
    assert "validate.batch = 0" in cfm_preset("validate", str(path), code=2)
    document = json.loads(cfm_preset("validate", "digits", str(path), "--json", code=2))
    assert [each["valid"] for each in document["results"]] == [True, False]
    path.write_text("protocol: cfm\nprotocols: {paper: {validate: {batch: 0}}}\n")
    assert "valid" in cfm_preset("validate", str(path))
    assert "smoke" in cfm_preset("validate", "smok", code=2)


@pytest.mark.parametrize("module", ["engine", "pydantic", "yaml", "torch"])
def test_the_command_imports_little(module: str) -> None:
    code = f"import sys, cfm_tui.cli.preset; sys.exit({module!r} in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
