"""`cfm report` on runs that were made by the command, and on unfinished, damaged and foreign ones."""

from __future__ import annotations

import base64
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from commandline import call, call_json
from images_run import with_images
from pages import Page, mean_cosine
from recorded import opened

from engine import backbones
from engine.config import settings
from engine.data import load
from engine.store import Cache, StoredRun, images

SMALL = ("--preset", "smoke", "--set", "ipc=3", "--set", "relabel.mode=online", "-q")
METHODS = {
    "cfm": (),
    "cfm1": ("--set", "seed=1"),
    "lfm": ("--set", "objective=lfm"),
    "sre2l": ("--set", "objective=sre2l"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache, and a folder of four small runs: CFM with two seeds, LFM, SRe²L."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFM_CACHE", str(root / "cache"))
        from cfm_tui.cli import main

        for name, sets in METHODS.items():
            with pytest.raises(SystemExit) as left:
                main(["run", *SMALL, *sets, "--out", str(root / "sweep" / name)])
            assert left.value.code == 0
    return root


@pytest.fixture(autouse=True)
def here(monkeypatch, world, tmp_path):
    monkeypatch.setenv("CFM_CACHE", str(world / "cache"))
    monkeypatch.setenv("CFM_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parsed(path):
    return Page(path.read_text(encoding="utf-8"))


def test_a_run_becomes_one_page_that_needs_nothing_else(capsys, world, here):
    before = sorted((world / "sweep" / "cfm").rglob("*"))
    out, _ = call(capsys, "report", world / "sweep" / "cfm", "-q")
    assert out == "report-cfm.html\n"
    assert sorted((world / "sweep" / "cfm").rglob("*")) == before  # a run's folder stays the run's
    found = parsed(here / "report-cfm.html")
    titles = [text for _, text in found.headings]
    wanted = ["Results", "Images", "Losses", "Spectra", "Intra-class similarity", "β schedule"]
    assert titles[:2] == ["Report of cfm", "Contents"]
    assert titles[2:] == [*wanted, "Settings", "Provenance"]
    assert len(found.images) == len(found.captions) == 6
    for source, alt in found.images:
        kind, content = source.removeprefix("data:image/").split(";base64,")
        raw = base64.b64decode(content, validate=True)
        assert alt
        assert (
            raw.startswith(b"\x89PNG") if kind == "png" else ElementTree.fromstring(raw).tag.endswith("svg")
        )
    assert all("cfm report" in caption for caption in found.captions)
    assert "sample standard deviation over repeats" in found.captions[0]
    assert "objective.beta" in found.text
    assert "preset smoke" in found.text  # where a setting comes from
    fingerprint = json.loads((world / "sweep" / "cfm" / "manifest.json").read_text())["identity"]["data"]
    assert fingerprint in found.text
    assert "Missing" not in found.text


def test_the_numbers_are_those_of_the_run(capsys, world, here):
    place = world / "sweep" / "cfm"
    document = call_json(capsys, "report", "report", place, "--png", here / "png", "-q")
    assert document["html"] is None
    assert [path.name for path in sorted((here / "png").iterdir())] == sorted(
        f"{figure['name']}.png" for figure in document["figures"]
    )
    results = json.loads((place / "results.json").read_text())
    (run,) = document["runs"]
    assert run["summary"] == results["summary"]
    assert document["accuracy"][0]["distilled"] == results["summary"]["accuracy"]
    assert document["accuracy"][0]["control"] == results["summary"]["control"]
    assert run["missing"] == []
    assert run["losses"]["iterations"] == 9
    assert len(run["betas"]) == 3
    assert run["betas"][0] == pytest.approx(0.1)


def test_spectra_are_those_that_are_scored(capsys, world):
    place = world / "sweep" / "cfm"
    document = call_json(capsys, "report", "report", place, "-q")
    scored = call_json(capsys, "score", "score", place, "--preset", "smoke", "-q")
    spectra = document["runs"][0]["spectra"]
    assert spectra["source"] == "images"
    for layer, wanted in zip(spectra["layers"], scored["layers"], strict=True):
        assert layer["name"] == wanted["name"]
        assert layer["real"] == pytest.approx(wanted["eigenvalues_real"], rel=1e-6, abs=1e-9)
        assert layer["synthetic"] == pytest.approx(wanted["eigenvalues_synthetic"], rel=1e-6, abs=1e-9)
        first, last = layer["filters"]
        assert (first["filter"], first["beta"]) == ("ridge", pytest.approx(0.1))
        assert last["beta"] == pytest.approx(document["runs"][0]["betas"][-1])
        ridge = 1 / (np.maximum(layer["real"], 0) + first["beta"])
        assert first["response"] == pytest.approx(ridge)


def test_similarity_is_that_of_the_run_s_own_teacher(capsys, world):
    place = world / "sweep" / "cfm"
    document = call_json(capsys, "report", "report", place, "-q")
    config = settings.resolve(preset="smoke", sets=["ipc=3"]).config
    data = load(config.data)
    (path,) = [
        path for path in (world / "cache" / "teachers").iterdir() if path.stem == teacher_key(config, data)
    ]
    arrays = Cache().load("teachers", path.stem).arrays
    model = backbones.build(config.backbone, classes=10, channels=1, image_size=16)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    pixels, labels = images.read_pixels(place / "images")
    x = (torch.from_numpy(pixels).double() / 255 - data.train.mean[0]) / data.train.std[0]
    model = model.double().eval()
    model.classifier = torch.nn.Identity()
    with torch.no_grad():
        features = model(x).numpy()
    wanted = [mean_cosine(features, labels, label) for label in range(10)]
    real, own = document["similarity"]
    assert real["label"] == "30 real images"
    assert own["of_class"] == pytest.approx(wanted, rel=1e-4)
    assert own["spread"] == document["runs"][0]["similarity"]
    assert own["spread"]["n"] == 10


def teacher_key(config, data):
    from engine.runs.artefacts import teacher_key as key

    return key(config, data)


def test_a_folder_of_runs_is_compared(capsys, world, here):
    document = call_json(capsys, "report", "report", world / "sweep", "--out", "all.html", "-q")
    assert [run["name"] for run in document["runs"]] == list(METHODS)
    assert [(group["label"], group["runs"]) for group in document["groups"]] == [
        ("cfm", ["cfm", "cfm1"]),
        ("lfm", ["lfm"]),
        ("sre2l", ["sre2l"]),
    ]
    seeds, lfm, sre2l = document["accuracy"]
    lasts = [
        [student["last"] for student in repeat["students"] if student["source"] == "distilled"]
        for name in ("cfm", "cfm1")
        for repeat in json.loads((world / "sweep" / name / "results.json").read_text())["repeats"]
    ]
    assert (seeds["distilled"]["n"], seeds["distilled"]["students"]["n"]) == (2, 4)
    assert seeds["distilled"]["mean"] == pytest.approx(np.mean(lasts))
    assert seeds["distilled"]["std"] == pytest.approx(np.std(np.mean(lasts, axis=1), ddof=1))
    assert seeds["versus_control"]["n"] == 2
    assert (lfm["distilled"]["n"], sre2l["distilled"]["n"]) == (1, 1)
    assert (lfm["distilled"]["std"], lfm["versus_control"]["verdict"]) == (None, "not tested")
    rows = {row["label"]: row for row in document["similarity"]}
    assert list(rows) == ["30 real images", "cfm", "lfm", "sre2l"]
    assert rows["cfm"]["spread"]["n"] == 20
    assert rows["30 real images"]["sets"] == 2  # the seeds have teachers of their own
    assert document["runs"][2]["betas"] == []  # LFM's filter reads no β
    flat = {"filter": "identity", "beta": None, "response": [1.0]}
    assert document["runs"][3]["spectra"]["layers"][0]["filters"] == [
        flat
    ]  # diag Ψ is none of the spectrum's
    found = parsed(here / "all.html")
    titles = [text for level, text in found.headings if level == 2]
    assert titles[:3] == ["Contents", "Results", "Images by method"]
    assert titles[-4:] == ["Run cfm", "Run cfm1", "Run lfm", "Run sre2l"]


def test_the_same_run_twice_counts_once(capsys, world, here):
    import shutil

    copy = shutil.copytree(world / "sweep" / "cfm", here / "other" / "cfm")
    places = (world / "sweep" / "cfm", world / "sweep" / "lfm", copy)
    document = call_json(capsys, "report", "report", *places, "--out", "a.html", "--png", "png", "-q")
    assert [group["runs"] for group in document["groups"]] == [["cfm"], ["lfm"]]
    assert [row["distilled"]["n"] for row in document["accuracy"]] == [1, 1]
    assert "it has the settings and the seed of cfm" in parsed(here / "a.html").text
    names = [figure["name"] for figure in document["figures"]]
    assert len(set(names)) == len(names) == len(list((here / "png").iterdir()))


def test_two_runs_of_one_name_have_figures_of_their_own(capsys, world, here):
    import shutil

    copy = shutil.copytree(world / "sweep" / "lfm", here / "other" / "cfm")
    places = (world / "sweep" / "cfm", copy)
    document = call_json(capsys, "report", "report", *places, "--out", "a.html", "-q")
    names = [figure["name"] for figure in document["figures"]]
    assert {"losses-cfm", "losses-cfm-2"} <= set(names)
    assert len(parsed(here / "a.html").images) == len(names) == len(set(names))


def test_without_the_teacher_recovery_s_own_spectra_are_shown(capsys, world, monkeypatch, here):
    monkeypatch.setenv("CFM_CACHE", str(here / "empty"))
    place = world / "sweep" / "cfm"
    document = call_json(capsys, "report", "report", place, "--out", "a.html", "-q")
    (run,) = document["runs"]
    (missing,) = run["missing"]
    assert "teacher" in missing["why"]
    assert "CFM_CACHE" in missing["hint"]
    assert run["similarity"] is None
    assert run["spectra"]["source"] == "recovery"
    moving = StoredRun(place).moving()
    for number, layer in enumerate(run["spectra"]["layers"]):
        wanted = np.linalg.eigvalsh(moving[f"{number}.cov_DD"].astype(np.float64))[::-1]
        assert layer["synthetic"] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert len(layer["real"]) == len(wanted)
    found = parsed(here / "a.html")
    assert "no longer in the cache" in found.text
    assert "As recorded by recovery" in found.text


def test_other_images_or_weights_are_not_taken_for_the_run_s(capsys, world, here):
    import shutil

    from engine.store.json_file import read_json, write_json

    for part, value in (("identity", {"data": "0" * 64}), ("teacher", {"fingerprint": "0" * 64})):
        place = shutil.copytree(world / "sweep" / "cfm", here / part)
        manifest = read_json(place / "manifest.json")
        manifest[part] = {**manifest[part], **value}
        write_json(place / "manifest.json", manifest)
        (run,) = call_json(capsys, "report", "report", place, "-q")["runs"]
        assert run["similarity"] is None
        assert run["spectra"]["source"] == "recovery"
        assert any("not" in missing["why"] for missing in run["missing"])


# --- what is not whole ---------------------------------------------------------------------------


def test_an_unfinished_run_shows_what_is_there(capsys, here):
    run, writer = with_images(here / "cut", batches=2)
    writer.close()
    run.close("stopped")
    (found,) = call_json(capsys, "report", "report", here / "cut", "--out", "a.html", "-q")["runs"]
    missing = {each["what"]: each for each in found["missing"]}
    assert "6 of 12" in missing["distilled images"]["why"]
    assert "cfm resume" in missing["results"]["hint"]
    assert found["losses"] is None
    page_ = parsed(here / "a.html")
    assert "β 0.0854" in page_.images[0][1]
    assert "6 of 12" in page_.text


def damage_config(folder):
    (folder / "config.yaml").write_text("seed: 1\n")


def damage_results(folder):
    (folder / "results.json").write_text("{}")


def damage_manifest(folder):
    (folder / "manifest.json").write_bytes(b"{")


def damage_journal(folder):
    (folder / "journal.jsonl").write_bytes(b"\x00garbage\n" * 5)


def damage_metrics(folder):
    (folder / "metrics" / "recover.f32").write_bytes(b"")


def damage_images(folder):
    path = folder / "images" / "distilled.safetensors"
    content = bytearray(path.read_bytes())
    content[-2000] ^= 255
    path.write_bytes(content)


def lose_images(folder):
    (folder / "images" / "distilled.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (damage_config, "settings"),
        (damage_results, "results"),
        (damage_manifest, "identity"),
        (damage_journal, "losses"),
        (damage_metrics, "losses"),
        (damage_images, "similarity"),
        (lose_images, "distilled images"),
    ],
)
def test_damage_is_told_and_the_rest_is_shown(capsys, world, here, damage, what):
    import shutil

    place = shutil.copytree(world / "sweep" / "cfm", here / "run")
    damage(place)
    (run,) = call_json(capsys, "report", "report", place, "--out", "a.html", "-q")["runs"]
    assert any(what in each["what"] for each in run["missing"]), run["missing"]
    found = parsed(here / "a.html")
    assert found.images
    assert "Missing" in found.text


def test_of_no_image_yet_none_is_said_to_be_shown(capsys, here):
    run, writer = with_images(here / "cut", batches=0)
    writer.close()
    run.close("stopped")
    _, err = call(capsys, "report", here / "cut", "-q")
    assert "no distilled images: none of 12 is finished yet → `cfm resume" in err
    assert "these are shown" not in err


@pytest.mark.parametrize(("method", "algorithm"), [("random", "none"), ("rded", "select")])
def test_what_is_not_optimised_lacks_no_losses(capsys, here, method, algorithm):
    text = f"objective: {method}\nrecover: {{algorithm: {algorithm}}}\n"
    run, writer = with_images(here / method, text=text)
    writer.close()
    run.close("finished")
    _, err = call(capsys, "report", here / method, "--out", "a.html", "-q")
    assert "losses" not in err
    text = parsed(here / "a.html").text
    assert "None: nothing was optimised." in text
    assert "β_b" not in text


def test_a_run_that_left_nothing_has_a_page(capsys, here):
    opened(here / "<b>run & co").close("stopped")
    out, err = call(capsys, "report", here / "<b>run & co", "-q")
    assert "no losses" in err
    found = parsed(here / out.strip())
    assert found.images == []
    assert found.headings[0] == (1, "Report of <b>run & co")


def test_what_is_no_run_is_a_usage_error(capsys, here):
    (here / "empty").mkdir()
    for words, said in ((["nothing"], "there is no run nothing"), (["empty"], "holds no runs")):
        error = call_json(capsys, "error", "report", *words, code=2)["error"]
        assert error["kind"] == "usage"
        assert said in error["message"]


def test_show_draws_when_it_is_asked_to(capsys, world, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    place = world / "sweep" / "cfm"
    plain, _ = call(capsys, "show", place, "--thumbnails", 0)
    drawn, _ = call(capsys, "show", place, "--betas", "--losses", "--spectra", "--width", 12)
    assert drawn.endswith(plain)
    for said in ("β 0.1", "all layers", "layers.conv.2", "Ψ_s", "f(Ψ)", "iteration", "rank"):
        assert said in drawn, said
        assert said not in plain
    rows = [line for line in drawn.splitlines() if line.count("β 0.") == 3]
    assert len(rows) == 10  # a row for each class, β from left to right
    assert max(map(len, drawn.splitlines())) <= 100


def test_show_says_what_it_cannot_draw(capsys, here):
    opened(here / "bare").close("stopped")
    out, _ = call(capsys, "show", here / "bare", "--betas", "--losses", "--spectra")
    assert "no losses" in out
    assert "no spectra" in out
    assert "no images" in out
