"""The numbers of the paper."""

import re
from importlib.resources import files

from engine.config.presets import load_shipped
from engine.report.paper import PaperTable


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
