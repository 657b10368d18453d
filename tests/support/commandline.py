"""The `cfm` command in this process or in its own, and the shapes that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest

import cfm_tui
from cfm_tui.cli import main

REPOSITORY = Path(cfm_tui.__file__).parents[1]
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
#: SIGINT as from a terminal: a shell's background job, and all that it starts, would ignore it.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from cfm_tui.cli import main; main()"
)


def call(capsys, *words, code=0):
    """Run `cfm WORDS` in this process; returns stdout and stderr."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert left.value.code == code, (left.value.code, out, err)
    return out, err


def call_json(capsys, shape, *words, code=0):
    """Run `cfm WORDS --json`; returns its one document, checked against a schema."""
    out, _ = call(capsys, *words, "--json", code=code)
    document = json.loads(out)
    check(document, shape)
    return document


def check(document, shape):
    """Hold a document against `docs/schemas/SHAPE.json`."""
    schema = json.loads((SCHEMAS / f"{shape}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


def start(*words, **options):
    """Start `cfm WORDS` as a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=REPOSITORY, **{**pipes, **options})


@contextmanager
def started(*words, seconds=120, **options):
    """`start`, with a process that is killed after so many seconds, or when the block is left."""
    with start(*words, **options) as process:
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()
