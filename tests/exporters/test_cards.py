"""The card of a distilled set says what its images are and what they are worth."""

import json

import pytest
import yaml

from engine.config import settings
from engine.exporters import cards, exports
from engine.runs.resume import stored_config


@pytest.mark.parametrize(("licence", "said"), [(None, "unknown"), ("mit", "mit")])
def test_the_card_says_what_the_images_are_and_what_they_are_worth(run, tmp_path, licence, said):
    exports.export(run, stored_config(run).config, "huggingface", tmp_path / "out", licence)
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == said
    columns = {each["name"]: each["dtype"] for each in front["dataset_info"]["features"]}
    assert columns["label"]["class_label"]["names"] == {str(label): str(label) for label in range(10)}
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 20
    assert all(set(row) == {"file_name", *columns} - {"image"} for row in rows)
    assert all((tmp_path / "out" / "train" / row["file_name"]).is_file() for row in rows)
    assert [row["label"] for row in rows] == [int(row["file_name"].split("/")[0]) for row in rows]
    summary = run.results()["summary"]
    assert f"{summary['accuracy']['mean']:.2f} (1)" in text
    assert f"{summary['control']['mean']:.2f} (1)" in text
    assert "one repeat: how much the result varies" in text
    assert run.manifest()["teacher"]["fingerprint"] in text
    settings_told = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "again.yaml").write_text(settings_told)
    assert settings.resolve(file=tmp_path / "again.yaml", base=None).config == stored_config(run).config


@pytest.mark.parametrize(
    ("teachers", "kept"),
    [(["torchvision:A", "/home/me/b.pth"], ()), (["torchvision:A", "torchvision:B"], None), ([], ())],
)
def test_settings_that_leave_the_machine_name_no_files_of_it(teachers, kept):
    of = {
        "teacher": "/home/me/a.pth",
        "also": "[resnet18,resnet50]",
        "also_teachers": f"[{','.join(teachers)}]",
    }
    sets = ["objective=gvbsm", *(f"backbone.{name}={value}" for name, value in of.items())]
    told = cards.remove_local_paths(settings.resolve(preset="smoke", sets=sets).config).backbone
    assert told.teacher is None
    assert told.also_teachers == (tuple(teachers) if kept is None else kept)
