"""What the monitor says and draws, without a screen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from monitored import BETAS, TAPS, glimpse

from cfm_tui.console import series
from cfm_tui.console import shown as words


def test_digits_are_three_rows_and_only_of_numbers():
    assert {len(row) for row in words.big("1.5e-3")} == {16}
    assert words.big("") == words.big("β") == []


def test_the_place_on_the_schedule_is_marked():
    betas = [0.5, 0.25, 0.1]
    rows = [words.beta_place(betas, batch, 20, lambda values: "x" * len(values))[1] for batch in (1, 2, 3)]
    assert rows == ["^", " ^", "  ^"]
    row, mark = words.beta_place([0.9**n for n in range(500)], 500, 20, lambda values: "x" * len(values))
    assert (len(row), len(mark)) == (20, 20)
    assert words.beta_place([], 0, 20, str) == []


def test_a_bar_is_as_long_as_it_may_be():
    assert [words.bar(share, 12) for share in (0, 0.5, 1)] == [
        "[..........]",
        "[#####.....]",
        "[##########]",
    ]


def test_class_names_come_from_the_images_folders(tmp_path):
    for name in ("00_cat", "01_ant"):
        os.makedirs(tmp_path / "images" / name)
    assert words.class_names(tmp_path) == ["cat", "ant"]
    assert words.class_names(Path("nowhere")) == []


def test_a_spectrum_says_where_the_filter_turns():
    seen = glimpse()
    lines, turn = series.spectrum(seen, TAPS[1], ["ridge/none", "ridge/class"])
    assert [line.name for line in lines] == ["Ψ", "Ψ_s", "f(Ψ)", "f(Ψ_s)"]
    real = seen.spectra[TAPS[1]][0]
    assert 10**turn == pytest.approx(1 + sum(real >= BETAS[2]))
    assert series.spectrum(seen, TAPS[1], ["identity/class"])[1] is None
