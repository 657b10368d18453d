"""Texts that messages share: similar names, and lists that are cut."""

from __future__ import annotations

from engine.errors import escape_name, format_names, nearest_name, suggest_name


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest_name("ConvNet", ["resnet18", "convnet"]) == "convnet"
    assert nearest_name("cfn", ["DM", "CFM"]) == "CFM"
    assert nearest_name("vgg", ["resnet18", "convnet"]) is None
    assert suggest_name("digit", ["digits"], "use one of digits") == "did you mean digits?"
    assert suggest_name("?", ["digits"], "use one of digits") == "use one of digits"


def test_long_lists_are_cut() -> None:
    assert format_names(["a", "b"]) == "a, b"
    assert format_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert format_names(["a", "b", "c"], 2, "; ") == "a; b; and 1 more"


def test_names_are_shown_as_they_are_but_cannot_act_on_a_terminal() -> None:
    assert escape_name("cfm[ipc=10] café\u3000猫") == "cfm[ipc=10] café\u3000猫"
    assert escape_name("a\x1b[2J\nb\u202ec") == "a\\x1b[2J\\nb\\u202ec"
    assert escape_name("caf\udce9") == "caf\\xe9"
    assert format_names(["a\nb", "c"]) == "a\\nb, c"
