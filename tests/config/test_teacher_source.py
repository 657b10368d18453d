"""The three kinds of teacher: a file, published weights, and none."""

from pathlib import Path

import pytest

from engine.config import Backbone
from engine.config.teacher_source import TeacherSource, require_teacher_files
from engine.errors import UserError


def test_the_three_kinds_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert TeacherSource.parse(None) == TeacherSource("none")
    assert TeacherSource.parse("torchvision:V2") == TeacherSource("torchvision", tag="V2")
    assert TeacherSource.parse("~/t.pth") == TeacherSource("file", tmp_path / "t.pth")
    texts = [None, "torchvision:V2", "~/t.pth", "t.pth"]
    absolute = [None, "torchvision:V2", str(tmp_path / "t.pth"), str(tmp_path / "t.pth")]
    assert [TeacherSource.parse(text).absolute() for text in texts] == absolute


def test_a_set_of_weights_may_be_named_after_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    source = TeacherSource.parse("t.pth#model_ema")
    assert source == TeacherSource("file", Path("t.pth"), "model_ema")
    assert source.absolute() == str(tmp_path / "t.pth") + "#model_ema"
    Path("t.pth#model_ema").touch()
    assert TeacherSource.parse("t.pth#model_ema") == TeacherSource("file", Path("t.pth#model_ema"))


@pytest.mark.parametrize(
    ("text", "said"), [("t.pth", "does not exist"), (".", "is a folder"), ("a\0b", "does not exist")]
)
def test_a_path_that_is_no_file_is_refused_wherever_it_is_given(monkeypatch, tmp_path, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "present.pth").touch()
    for chosen in ({"teacher": text}, {"teacher": "present.pth", "also_teachers": (text,)}):
        with pytest.raises(UserError, match=said) as refused:
            require_teacher_files(Backbone.model_construct(**chosen))
        assert refused.value.kind == "teacher"
    require_teacher_files(Backbone(teacher="present.pth"))
    require_teacher_files(Backbone(teacher="torchvision:V2"))
    require_teacher_files(Backbone())
    assert Path("present.pth").is_file()
