import sys
from pathlib import Path
from subprocess import run
from types import SimpleNamespace

import pytest

from engine.config import BackboneName, Term, settings
from engine.config.settings import resolve
from engine.errors import UserError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(**layers: object) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve(**layers)  # type: ignore[arg-type]
    assert caught.value.kind == "config"
    assert caught.value.hint
    return caught.value


def test_each_layer_beats_the_one_below(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.yaml", "extends: cifar10-10\nrecover: {lr: 0.3}\n")
    key = "recover.lr"
    steps = [
        (resolve(preset="digits"), 0.25, "default"),
        (resolve(preset="tiny50"), 0.1, "preset _tiny"),
        (resolve(file=file), 0.3, "file mine.yaml"),
        (resolve(file=file, environ={"CFM_RECOVER__LR": "0.4"}), 0.4, "environment CFM_RECOVER__LR"),
        (resolve(file=file, environ={"CFM_RECOVER__LR": "0.4"}, sets=["recover.lr=0.5"]), 0.5, "flag"),
        (resolve(file=file, sets=["recover.lr=0.5"], overrides={key: 0.6}), 0.6, "flag"),
    ]
    for resolved, value, origin in steps:
        assert (resolved.config.recover.lr, resolved.origins[key]) == (value, origin)


def test_protocol_sections_follow_the_chain_of_protocols(tmp_path: Path) -> None:
    text = (
        "protocol: cfm\nipc: 3\nvalidate: {batch: 1}\n"
        "protocols:\n  cfm: {validate: {batch: 4}}\n  reference: {validate: {batch: 2, seeds: 7}}\n"
    )
    file = write(tmp_path, "a.yaml", text)
    both = resolve(file=file)
    assert (both.config.validate_.batch, both.config.validate_.seeds) == (4, 7)
    assert both.origins["validate.batch"] == "file a.yaml, protocol cfm"
    reference = resolve(file=file, sets=["protocol=reference"]).config
    assert (reference.validate_.batch, reference.validate_.seeds) == (2, 7)
    assert resolve(file=file, sets=["protocol=paper"]).config.validate_.batch == 1


def test_what_a_file_says_beats_the_sections_of_what_it_extends(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "extends: tiny50\nvalidate: {batch: 12}\n")
    for protocol in settings.PROTOCOLS:
        assert resolve(file=file, sets=[f"protocol={protocol}"]).config.validate_.batch == 12


def test_the_highest_layer_that_names_a_protocol_wins(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "protocol: paper\n")
    assert resolve(file=file).config.objective.taps == "all-conv-output"
    assert resolve(file=file, environ={"CFM_PROTOCOL": "reference"}).config.recover.init == "first"
    both = resolve(file=file, environ={"CFM_PROTOCOL": "reference"}, sets=["protocol=cfm"])
    assert (both.config.protocol, both.config.statistics.estimator) == ("cfm", "pooled")


def test_a_method_replaces_the_objective_and_keeps_what_the_protocol_says(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "objective: {beta: 0.7, ce: 0.5, first_tap: 3, terms: []}\n")
    got = resolve(file=file, sets=["objective=hfm", "protocol=paper", "objective.ce=2"])
    objective = got.config.objective
    assert (objective.method, objective.schedule.kind, objective.ce) == ("hfm", "constant", 2)
    assert (objective.beta, objective.first_tap) == (0.1, 1.0)  # what the file said is gone
    assert (objective.taps, objective.signal) == ("all-conv-output", "class")  # the protocol's stays
    assert got.origins["objective.terms"] == "method hfm"
    assert (
        resolve(sets=["objective.ce=2", "objective=hfm", "protocol=paper"]).config
        == resolve(sets=["objective={method: hfm, ce: 2}", "protocol=paper"]).config
    )


def test_methods_are_the_terms_of_the_table() -> None:
    def terms(method: str) -> list[tuple[str, str]]:
        return [(t.filter, t.signal) for t in resolve(sets=[f"objective={method}"]).config.objective.terms]

    assert terms("cfm") == terms("hfm") == [("ridge", "none"), ("ridge", "chosen")]
    assert terms("lfm") == [("lambda", "none"), ("lambda", "chosen")]
    assert terms("dm") == [("identity", "class")]
    assert terms("dc") == [("lambda", "none"), ("identity", "class")]
    assert terms("frepo") == [("ridge", "class")]
    sre2l = resolve(preset="cifar10-10", sets=["objective=sre2l"]).config.objective
    assert sre2l.taps == "batchnorm"
    assert sre2l.first_tap == 10
    assert sre2l.terms == (
        Term(filter="diagonal", signal="none", weight=0.01),
        Term(filter="identity", signal="mean", weight=0.01),
    )


def test_file_extends_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "extends: cifar10-10\nipc: 7\nseed: 5\n")
    top = write(tmp_path, "top.yaml", "extends: base.yaml\nseed: 6\n")
    got = resolve(file=top)
    assert (got.config.data.name, got.config.ipc, got.config.seed) == ("cifar10", 7, 6)
    assert got.origins["ipc"] == "file base.yaml"


def test_circles_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "extends: ./a.yaml\n")
    assert "circle" in refusal(file=tmp_path / "a.yaml").message
    own = write(tmp_path, "own.yaml", "extends: own.yaml\n")
    assert "own.yaml" in refusal(file=own).message


def test_yaml_written_from_a_resolved_config_loads_as_the_same(tmp_path: Path) -> None:
    odd = "1e-3"
    for preset in settings.preset_names():
        got = resolve(preset=preset, overrides={"data.root": odd, "recover.lr": 1e-10})
        for origins in (None, got.origins):
            file = write(tmp_path, "config.yaml", settings.to_yaml(got.config, origins))
            assert resolve(file=file).config == got.config
        odd = {"1e-3": "a: b # c", "a: b # c": "two\nlines", "two\nlines": "é 'x' \"y\" \x07"}.get(odd, "off")


def test_values_are_yaml() -> None:
    config = resolve(
        sets=[
            "data.mean=[0.49,0.48,0.44]",
            "validate.students=[resnet18]",
            "recover.lr=1e-3",
            "recover.emu=off",
            "data.root='2024'",
            "recover.views.crop_scale=null",
        ]
    ).config
    assert config.data.mean == (0.49, 0.48, 0.44)
    assert config.validate_.students == ("resnet18",)
    assert (config.recover.lr, config.recover.emu, config.data.root) == (0.001, False, "2024")
    assert config.recover.views.crop_scale is None


def test_environment() -> None:
    got = resolve(environ={"CFM_DATA_ROOT": "/x: y", "CFM_TEACHER": "no", "CFM_CACHE": "/c", "HOME": "/h"})
    assert (got.config.data.root, got.config.backbone.teacher) == ("/x: y", "no")
    assert got.origins["data.root"] == "environment CFM_DATA_ROOT"
    assert "CFM_RECOVER__LR" in refusal(environ={"CFM_RECOVER_LR": "1"}).hint
    assert "recover.lr" in refusal(environ={"CFM_RECOVER__LRR": "1"}).hint
    assert "CFM_PROTOCOL" in refusal(environ={"CFM_PROTOCL": "paper"}).hint


def test_flags_that_were_not_given_say_nothing() -> None:
    assert resolve(overrides={"data.root": None}) == resolve()
    assert resolve(overrides={"data.root": Path("x")}).config.data.root == "x"


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("recover.iteratons=3", ["recover.iteratons", "flag"], "recover.iterations"),
        ("iterations=3", ["'iterations'"], "recover.iterations"),
        ("objective=sre2", ["method", "sre2"], "sre2l"),
        ("protocol=papr", ["protocol", "papr"], "paper"),
        ("recover.lr=-1", ["recover.lr", "-1", "greater than 0", "flag"], "recover.lr"),
        ("ipc=0", ["ipc", "0", "at least 1"], "ipc"),
        ("recover.betas=[0.5, 2]", ["recover.betas[1]", "2", "less than 1"], "recover.betas"),
        ("recover.lr=.inf", ["recover.lr", "finite"], ""),
        ("ipc=true", ["ipc", "true", "whole number"], ""),
        ("ipc='10'", ["ipc", "whole number"], ""),
        ("data.root=2024", ["data.root", "text"], "quotes"),
        ("backbone.name=resnet-18", ["backbone.name", "resnet-18"], "resnet18"),
        ("validate.students=resnet18", ["validate.students", "list"], "[a, b]"),
        ("objective.terms=[{filter: ridg}]", ["objective.terms[0].filter", "ridg"], "ridge"),
        ("recover=5", ["recover", "section"], ""),
        ("recover.views.crop_scale=[0.1]", ["recover.views.crop_scale"], ""),
        ("device=gpu", ["device", "gpu"], ""),
        ("recover.views.crop_scale=[1, 0.5]", ["recover.views", "crop_scale"], ""),
        ("data={mean: [0, 0, 0], std: [1]}", ["data", "mean", "std"], ""),
        ("data.mean=[1, 2]", ["data", "mean", "2 values"], ""),
        ("relabel.stored_epochs=1000", ["relabel.stored_epochs", "validate.epochs"], ""),
        ("objective.taps=batchnorm", ["objective", "batchnorm", "ridge"], ""),
        ("objective={beta: 0, schedule: {kind: constant}}", ["objective", "beta"], ""),
        ("objective={terms: [], ce: 0}", ["objective", "nothing"], ""),
        ("recover.lr", ["key=value"], ""),
        ("recover..lr=3", ["key=value"], ""),
    ],
)
def test_messages_say_what_and_where_and_how(text: str, words: list[str], hint: str) -> None:
    error = refusal(sets=[text])
    assert all(word in error.message for word in words), error.message
    assert hint in error.hint, error.hint


@pytest.mark.parametrize("value", ["5", "[]", "[a, [b]]", "{a: 1}", "[a, b, a]"])
def test_a_class_order_is_a_list_of_names_or_a_path(value: str) -> None:
    error = refusal(sets=[f"data.class_order={value}"])
    assert "data.class_order: " in error.message
    assert "lists 'a' twice" in error.message or "one name a line" in error.message
    given = settings.resolve(sets=["data.class_order=[b, 10, '07']"]).config.data.class_order
    assert given == ("b", "10", "07")


def test_all_problems_are_listed_with_their_layers(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "ipc: 0\nsquezze: {}\n")
    message = refusal(file=file, sets=["recover.lr=-1"]).message
    assert "3 problems" in message
    assert all(words in message for words in ("ipc = 0", "file a.yaml", "squezze", "recover.lr", "flag"))


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    error = refusal(preset="cifar10-10-convent")
    assert "'cifar10-10-convnet'" in error.hint
    assert "smoke" in error.hint
    assert "_cifar" not in error.hint
    assert "extends" in refusal(file=write(tmp_path, "a.yaml", "extends: cifar11\n")).message
    assert "papr" in refusal(file=write(tmp_path, "b.yaml", "protocols: {papr: {}}\n")).message
    assert "none.yaml" in refusal(file=tmp_path / "none.yaml").message
    extending = write(tmp_path, "c.yaml", "extends: digits\n")
    assert "digits" in refusal(preset="digits", file=extending).message


def test_settings_need_no_torch() -> None:
    code = (
        "import sys; from engine.config import settings; settings.resolve(); sys.exit('torch' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_backbone_names_are_those_that_can_be_built() -> None:
    from engine import backbones

    assert BackboneName.__args__ == backbones.NAMES


def test_a_protocol_may_have_settings_for_one_number_of_images_per_class(tmp_path: Path) -> None:
    text = (
        "ipc: 3\nprotocols:\n  reference:\n    validate: {batch: 2}\n"
        '    by_ipc: {"1": {validate: {batch: 20}}, "3": {validate: {batch: 30}}}\n'
        '  cfm: {by_ipc: {"1": {validate: {batch: 4}}}}\n'
    )
    file = write(tmp_path, "a.yaml", text)
    batches = {
        (protocol, ipc): resolve(
            file=file, sets=[f"protocol={protocol}", f"ipc={ipc}"]
        ).config.validate_.batch
        for protocol in ("reference", "cfm")
        for ipc in (1, 2, 3)
    }
    assert [batches["reference", ipc] for ipc in (1, 2, 3)] == [20, 2, 30]
    assert [batches["cfm", ipc] for ipc in (1, 2, 3)] == [4, 2, 30]
    assert resolve(file=file).origins["validate.batch"] == "file a.yaml, protocol reference, ipc 3"
    mine = write(tmp_path, "b.yaml", "extends: a.yaml\nvalidate: {batch: 9}\n")
    assert resolve(file=mine, environ={"CFM_IPC": "1"}).config.validate_.batch == 9


@pytest.mark.parametrize(
    "section",
    ["3", "{1: {ipc: 2}}", '{"1": 3}', "{x: {ipc: 2}}", '{"1": {ipc: 2}}', '{"1": {protocol: cfm}}'],
)
def test_a_section_by_images_per_class_that_cannot_be_read_is_refused(tmp_path: Path, section: str) -> None:
    file = write(tmp_path, "a.yaml", f"protocols: {{reference: {{by_ipc: {section}}}}}\n")
    refusal(file=file)


def test_changes_from_a_preset_know_what_the_images_per_class_change() -> None:
    wanted = resolve(preset="tiny50", sets=["protocol=reference", "ipc=1"]).config
    assert wanted.recover.init == "tiles"
    changed = settings.changes("tiny50", wanted)
    assert changed == {"protocol": "reference", "ipc": 1}
    assert resolve(preset="tiny50", sets=settings.format_sets(changed)).config == wanted


def test_a_stored_run_that_lacks_newer_settings_keeps_what_it_did(tmp_path: Path) -> None:
    newer = ("save", "loss_scale", "stem_init", "test_resize", "resize", "warmup_epochs", "centre")
    for protocol in settings.PROTOCOLS:
        config = resolve(preset="tiny50", sets=[f"protocol={protocol}", "objective.taps=conv-output"]).config
        lines = settings.to_yaml(config).splitlines()
        kept = [line for line in lines if line.split(":")[0].strip() not in newer]
        assert len(kept) == len(lines) - len(newer) - 1  # two optimisers
        run = SimpleNamespace(folder=tmp_path, config_yaml=lambda: "")
        write(tmp_path, "config.yaml", "\n".join(kept))
        stored = settings.load_stored(run).config  # type: ignore[arg-type]
        assert (stored.recover.save, stored.validate_.loss_scale) == ("png", "none")
        assert (stored.data.resize, stored.data.test_resize) == (None, None)
        assert (stored.squeeze.optimiser.warmup_epochs, stored.statistics.centre) == (0, "set")
        assert stored.validate_.stem_init == "kaiming"
        assert (stored.protocol, stored.recover.init) == (protocol, config.recover.init)
        changed = settings.load_stored(run, ["objective=hfm"]).config  # type: ignore[arg-type]
        assert changed.objective.taps == resolve(sets=[f"protocol={protocol}"]).config.objective.taps


@pytest.mark.parametrize("value", ["0", "4097", "true", "2.5", "many"])
def test_a_number_of_threads_is_refused_in_one_sentence(value: str) -> None:
    with pytest.raises(UserError) as caught:
        settings.resolve(preset="smoke", sets=[f"threads={value}"])
    allowed = "threads: must be auto, adaptive, or a number of threads from 1 to 4096"
    assert caught.value.message.startswith(allowed)
