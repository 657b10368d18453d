"""Comparison of rows, and the numbers of the paper."""

import re
from importlib.resources import files

import numpy as np

from engine.config.presets import load_shipped
from engine.report.tables import PaperTable, compare_paired


def test_pairs_are_of_one_seed_and_noise_needs_two_of_them():
    one = compare_paired({(0, 0): 2.0, (0, 1): 5.0}, {(0, 1): 3.0, (1, 0): 9.0})
    assert (one["difference"], one["n"], one["p"], one["exceeds_noise"]) == (2.0, 1, None, False)
    none = compare_paired({(0, 0): 2.0}, {(1, 0): 2.0})
    assert (none["difference"], none["n"]) == (None, 0)
    alike = compare_paired({(0, 0): 2.0, (0, 1): 3.0}, {(0, 0): 1.0, (0, 1): 2.0})
    assert (alike["difference"], alike["errors"], alike["p"], alike["exceeds_noise"]) == (
        1.0,
        None,
        None,
        False,
    )


def test_students_of_one_set_are_no_samples_of_the_method():
    """Sets that differ by chance alone, with nine students: marked about as rarely as the level says."""
    rng, marked = np.random.default_rng(0), 0
    for _ in range(400):
        rows = []
        for _ in range(2):
            sets = rng.normal(0, 0.7, size=3)
            rows.append({(r, s): sets[r] + rng.normal(0, 0.5) for r in range(3) for s in range(3)})
        found = compare_paired(*rows)
        assert found["n"] == 3
        marked += found["exceeds_noise"]
    assert marked / 400 < 0.08


def test_the_papers_numbers_are_all_read():
    names = [entry.name[:-5] for entry in files("presets").joinpath("paper").iterdir()]
    assert sorted(names) == ["table2", "table3", "table4", "table5"]
    counts = {}
    for name in names:
        table = PaperTable.load(name)
        assert table.source == f"UniDD Table {name[-1]}"
        assert set(load_shipped("paper", name)) == {"description", "source", "values"}
        counts[name] = 0
        for column, rows in table.values.items():
            for row in rows:
                number = table.number(column, row)
                assert 0 < number["mean"] < 100
                counts[name] += 1
    assert counts == {"table2": 44, "table3": 45, "table4": 24, "table5": 9}
    assert PaperTable.load("table3").number("imagenet-50-resnet18-resnet101", "cfm")["mean"] == 63.5
    assert PaperTable.load("table2").number("cifar10-10-convnet", "sre2l") is None


def test_numbers_are_written_as_they_are_printed():
    for name in ("table2", "table3", "table4", "table5"):
        for rows in load_shipped("paper", name)["values"].values():
            for printed in rows.values():
                assert re.fullmatch(r"\d\d\.\d\d?(±\d\.\d)?", printed), printed
