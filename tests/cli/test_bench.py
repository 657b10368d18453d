"""`cfm bench`: the table, the document, and errors."""

import pytest
from commandline import call, call_json

from cfm_tui.display.bench_table import WIDTH

QUICK = ("--seconds", 1)
SMALL = ("--preset", "smoke", "--set", "backbone.width=8", *QUICK)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))


def test_the_table_is_markdown_of_80_columns_and_nothing_is_written(capsys, tmp_path):
    out, err = call(capsys, "bench", *SMALL)
    lines = out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == "- cfm bench smoke --set backbone.width=8"
    for start in (
        "| recovery, it/s ",
        "| squeeze, images/s ",
        "| students, images/s ",
        "| validate ",
        "| total ",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start
    heads = [number for number, line in enumerate(lines) if line.startswith("| ---")]
    for number in heads:  # every row of a table has as many cells as its head
        rows = [lines[number - 1]]
        for line in lines[number + 1 :]:
            if not line.startswith("|"):
                break
            rows.append(line)
        assert len({row.count("|") for row in rows}) == 1
    assert len(heads) == 3
    assert "timing recovery" in err
    assert list(tmp_path.rglob("*")) == []


def test_the_document_has_positive_rates_and_times_that_add_up(capsys):
    document = call_json(capsys, "bench", "bench", *SMALL, "--set", "relabel.mode=stored", "--quiet")
    assert document["experiment"] == "smoke"
    assert [rate["what"] for rate in document["rates"]] == [
        "recovery",
        "statistics",
        "squeeze",
        "students",
        "evaluation",
    ]
    for rate in document["rates"]:
        assert rate["rate"] > 0
        assert rate["share"] == pytest.approx(rate["rate"] / rate["bare"])
        assert 0 < rate["of_peak"] < 1
    assert sum(document["recovery_parts"].values()) == pytest.approx(1)
    assert sum(document["seconds"].values()) == pytest.approx(document["total_seconds"])
    assert min(document["seconds"].values()) > 0
    assert document["label_bytes"] > 0
    assert document["start_seconds"] > 0


def test_progress_is_not_shown_if_quiet(capsys):
    _, err = call(capsys, "bench", *SMALL, "--quiet", "--set", "objective=random")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--set", "recover.lr=-1"], "config"),
        (["--preset", "nowhere"], "config"),
        (["--teacher", "missing.pth"], "teacher"),
        (["--seconds", "0"], "usage"),
        (["--device", "cuda:99"], "config"),
    ],
)
def test_errors_are_those_of_a_run(capsys, words, kind):
    assert call_json(capsys, "error", "bench", *words, code=2)["error"]["kind"] == kind


def test_a_name_that_is_long_does_not_make_the_table_wider():
    from cfm_tui.display.bench_table import _format_rates

    rate = {
        "what": "evaluation",
        "network": "shufflenet_v2_x0_5 mobilenet_v2 efficientnet_b0",
        "batch": 12345,
        "unit": "images",
        "precision": "bfloat16",
        "rate": 1234567.0,
        "bare": 2234567.0,
        "share": 0.55,
        "gflops": 12.0,
        "of_peak": 0.21,
    }
    assert max(map(len, _format_rates([rate]).splitlines())) <= WIDTH
