"""What `docs/formats.md` says of `--json` against the commands and schemas that there are."""

import re

from commandline import SCHEMAS
from typer.main import get_command

from cfm_tui.cli import app

TEXT = (SCHEMAS.parent / "formats.md").read_text(encoding="utf-8")


def with_json(command, name):
    """Names of all commands below this one that take --json."""
    if hasattr(command, "commands"):
        for part, below in command.commands.items():
            yield from with_json(below, f"{name} {part}")
    elif any("--json" in parameter.opts for parameter in command.params):
        yield name


def test_every_document_is_told_once_with_its_schema_or_without():
    told = re.findall(r"^\| `(cfm [a-z ]+) --json`", TEXT, re.MULTILINE)
    assert sorted(told) == sorted(with_json(get_command(app), "cfm"))


def test_every_schema_is_linked_and_every_link_leads_to_one():
    linked = re.findall(r"\(schemas/([a-z-]+\.json)\)", TEXT)
    assert sorted(linked) == sorted(path.name for path in SCHEMAS.iterdir())
