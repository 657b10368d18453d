"""Identity: which settings make two runs the same experiment."""

import pytest

from engine.config.identity import LOCAL_SETTINGS, changed_settings, config_hash, describe_experiment
from engine.config.settings import resolve


def config_with(*sets):
    return resolve(preset="smoke", sets=sets).config


def test_local_settings_never_matter():
    sets = ["device=cpu", "threads=3", "checkpoint_seconds=5", "recover.micro_batch=2", "repeats=5"]
    sets += ["data.root=/sets", "backbone.teacher=/a.pth", "given.images=/b.pt", "given.image_labels=/e.pt"]
    sets += ["given.labels=/c", "given.statistics=/d", "given.max_clipped=0.5", "validate.preview_images=0"]
    sets += ["validate.together=always"]
    plain, local = config_with(), config_with(*sets)
    assert {text.partition("=")[0] for text in sets} | {"backbone.also_teachers"} == set(LOCAL_SETTINGS)
    assert config_hash(plain) == config_hash(local)
    assert changed_settings(plain, local) == {}
    assert describe_experiment(plain, {}) == describe_experiment(local, {})


@pytest.mark.parametrize(("name", "value"), [("seed", 7), ("ipc", 3), ("validate.students", ["resnet18"])])
def test_all_others_change_the_identity(name, value):
    plain, other = config_with(), config_with(f"{name}={value}")
    assert config_hash(plain) != config_hash(other)
    assert list(changed_settings(plain, other)) == [name]
    assert (describe_experiment(plain, {}) == describe_experiment(other, {})) is (name == "seed")
    assert describe_experiment(plain, {}, [name]) == describe_experiment(other, {}, [name])


def test_inputs_count_by_their_fingerprints():
    config = config_with()
    first, second = ({"config": name, "teacher": name} for name in ("a", "b"))
    assert describe_experiment(config, first)["identity.teacher"] == "a"
    assert describe_experiment(config, {**first, "config": "c"}) == describe_experiment(config, first)
    assert describe_experiment(config, first) != describe_experiment(config, second)
