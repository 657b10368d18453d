"""A run that is stopped by a signal."""

import json
import signal

import pytest
from commandline import started


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_the_run_marked_and_free(tmp_path, number, code):
    out = tmp_path / "run"
    words = [
        "run",
        "--preset",
        "smoke",
        "--set",
        "relabel.mode=online",
        "--set",
        "validate.epochs=100000",
        "--out",
        str(out),
    ]
    with started(*words, env={"CFM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}) as process:
        assert any("validate" in line for line in process.stderr)
        process.send_signal(number)
        process.communicate()
    assert process.returncode == code
    assert json.loads((out / "status.json").read_text())["state"] == "stopped"
    assert (out / "images" / "distilled.safetensors").exists()
    assert not (out / "owner.json").exists()
