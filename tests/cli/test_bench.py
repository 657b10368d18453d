"""`cfm bench`: the table, the document, and errors."""

import json
import subprocess
import sys

import pytest
from commandline import call, call_json

from cfm_tui.display.bench_table import WIDTH, _format_command, _format_times

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


def words_in_a_shell(block):
    """The words of a block of code as `sh` reads them."""
    opening, *lines, closing = block.splitlines()
    assert (opening, closing) == ("```sh", "```")
    script = "\n".join(["cfm() { printf '%s\\0' cfm \"$@\"; }", *lines])
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.split("\0")[:-1]


def test_the_command_of_the_table_runs_and_measures_the_same_again(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my experiments").mkdir()
    (tmp_path / "my experiments" / "one.yaml").write_text("backbone: {width: 8}\n")
    words = ["bench", "--config", "my experiments/one.yaml", "--set", "ipc=1", "--repeats", "2"]
    words += ["--device", "cpu", "--seconds", "1", "--set", "objective=random", "--set", "validate.epochs=2"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/cfm", *words])
    out, _ = call(capsys, *words)
    block, _, _ = out.partition("\n\n")
    assert words_in_a_shell(block) == ["cfm", *words]
    assert " 1 image per class" in out


def test_a_long_command_continues_on_the_next_line():
    words = ["cfm", "bench", *(word for n in range(9) for word in ("--set", f"backbone.width={n}"))]
    words += ["--data-root", "/a folder/" + 90 * "x"]
    block = _format_command(words)
    assert words_in_a_shell(block) == words
    too_long = [len(line) for line in block.splitlines() if len(line) > WIDTH]
    assert too_long == [len("  '/a folder/'") + 90]


def test_the_document_has_positive_rates_and_times_that_add_up(capsys):
    document = call_json(capsys, "bench", "bench", *SMALL, "--set", "relabel.mode=stored", "--quiet")
    assert [rate["what"] for rate in document["rates"]] == [
        "recovery",
        "statistics",
        "squeeze",
        "students",
        "evaluation",
    ]
    for rate in document["rates"]:
        assert min(rate["rate"], rate["bare"], rate["share"]) > 0
        assert rate["of_peak"] * document["peaks"][rate["precision"]] == pytest.approx(rate["gflops"])
    assert sum(document["recovery_parts"].values()) == pytest.approx(1)
    seconds = sum(document["seconds"].values())
    assert document["total_seconds"] == pytest.approx(document["start_seconds"] + seconds)
    assert min(document["seconds"].values()) > 0
    assert document["label_bytes"] > 0


def test_start_is_from_the_beginning_of_the_program_to_the_first_stage(capsys, monkeypatch):
    from types import SimpleNamespace

    import psutil

    from engine.runs import bench, plan

    clock = [1000.0]

    def prepare(*_):
        clock[0] += 7.0
        return SimpleNamespace(choose_execution=lambda: clock.__setitem__(0, clock[0] + 5.0))

    def measure(*_):
        clock[0] += 100.0
        return {"seconds": {"squeeze": 30.0, "recover": 400.0}}

    monkeypatch.setattr("cfm_tui.cli.bench.time.time", lambda: clock[0])
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 996.0)
    monkeypatch.setattr(plan, "prepare", prepare)
    monkeypatch.setattr(bench, "measure", measure)
    out, _ = call(capsys, "bench", "--json")
    document = json.loads(out)
    assert document["start_seconds"] == 16.0
    assert document["total_seconds"] == 446.0


def test_the_total_of_the_table_is_that_of_the_document():
    times = {"start_seconds": 5.0, "seconds": {"squeeze": 15.0, "statistics": 0.0}, "total_seconds": 20.0}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _format_times(times).splitlines()]
    assert rows[2:] == [
        ["start", "5.0 s", "25%"],
        ["squeeze", "15.0 s", "75%"],
        ["statistics", "cached or not needed", ""],
        ["total", "20.0 s", ""],
    ]


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
    assert max(map(len, _format_rates([rate], {"bfloat16": 1234567.0}).splitlines())) <= WIDTH
