"""README.md and docs/ say what is there: the map of the tree, links, presets and settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.config import settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MAPPED = ("engine", "cfm_tui", "presets")


def parts(folder):
    """The modules and packages directly in a folder, as the map writes them."""
    for entry in (ROOT / folder).iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield f"{folder}/{entry.name}/"
        elif entry.suffix == ".py" and entry.name != "__init__.py":
            yield f"{folder}/{entry.name}"


def test_the_map_of_the_tree_names_every_part_and_no_other():
    section = (ROOT / "README.md").read_text().split("\n## The tree\n")[1].split("\n## ")[0]
    listed, folder = [], ""
    for indent, name in re.findall(r"^    ( *)([\w./]+) {2,}\S", section, re.M):
        folder = folder if indent else name
        listed.append(folder + name if indent else name)
    assert [name for name in listed if not (ROOT / name).exists()] == []
    inside = [name for name in listed if name.split("/")[0] in MAPPED and name.strip("/") not in MAPPED]
    assert sorted(inside) == sorted(part for folder in MAPPED for part in parts(folder))


def test_the_walks_through_the_code_name_calls_that_exist_and_count_them():
    text = (ROOT / "docs" / "architecture.md").read_text().split("\n## Four walks\n")[1]
    sources = "\n".join(path.read_text() for folder in MAPPED[:2] for path in (ROOT / folder).rglob("*.py"))
    heading, rest = r"^\*\*[^*]+\*\*[^,]*, (\d+) calls:", r"[^\n]*\n(?:\S[^\n]*\n)*\n((?:    .*\n)+)"
    walks = re.findall(heading + rest, text, re.M)
    assert len(walks) == 4
    for count, calls in walks:
        assert calls.count("→") == int(count)
        for name in re.findall(r"[\w.]+", calls.replace("→", " ")):
            assert re.search(rf"(?:def|class) {name.split('.')[-1]}\b", sources), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_schema_is_told_of():
    text = (ROOT / "docs" / "formats.md").read_text()
    schemas = (ROOT / "docs" / "schemas").glob("*.json")
    assert [path.name for path in schemas if f"(schemas/{path.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_presets_and_settings_that_exist(page):
    text = page.read_text()
    assert set(re.findall(r"--preset ([\w-]+)", text)) - {"NAME", *settings.preset_names()} == set()
    for key, value in re.findall(r"--set '?([a-z][\w.]*)=(\S*?)'?(?=[\s`]|$)", text, re.M):
        if value != "NAME":
            settings.resolve(sets=[f"{key}={value}"])
