"""The statistics that the released UniDD code bundles, read as the real side."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from stages import drive, small

from engine import store
from engine.config import settings
from engine.device import choose
from engine.errors import UserError
from engine.importers import running
from engine.runs import artefacts, launch, plan
from engine.store import images

NAMES = ("layers.conv.0", "layers.conv.1", "layers.conv.2")
D = (1, 16, 16)


def made(tap: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, tap])
    x = rng.standard_normal((D[tap], 50))
    return {
        "running_cov": np.cov(x, bias=True).reshape(D[tap], D[tap]).astype(np.float32),
        "running_corr": (x @ x.T / 50).astype(np.float32),
        "running_mean": x.mean(axis=1).astype(np.float32),
        "running_mix_mean": rng.standard_normal((D[tap], 10)).astype(np.float32),
        "running_class_mean": rng.standard_normal((D[tap], 10)).astype(np.float32),
    }


def bundled(folder, prefix="ConvNetW16D3.pth", **changes):
    """What the code leaves: a folder a layer; changes: of the second layer's arrays."""
    for tap, name in enumerate(NAMES):
        place = folder / f"{prefix}={name}"
        place.mkdir(parents=True)
        np.savez(place / "running.npz", **(made(tap) | (changes if tap == 1 else {})))
    return folder


def read(path, teacher, trust=True, **changes):
    return running.read(
        small(given={"statistics": str(path), "trust": trust}, **changes), teacher, teacher, 10
    )


def refused(path, teacher, **options):
    with pytest.raises(UserError) as caught:
        read(path, teacher, **options)
    assert caught.value.hint
    return caught.value.message


def test_every_field_is_where_it_belongs(tmp_path, teacher):
    found = read(bundled(tmp_path / "input"), teacher)
    assert [moments.name for moments in found] == list(NAMES)
    for tap, moments in enumerate(found):
        wanted = made(tap)
        assert np.array_equal(moments.cov_DD.numpy(), wanted["running_cov"].astype(np.float64))
        assert np.array_equal(moments.var_D.numpy(), np.diag(wanted["running_cov"]))
        assert np.array_equal(moments.mean_D.numpy(), wanted["running_mean"])
        assert np.array_equal(moments.flc_DK.numpy(), wanted["running_class_mean"])


def test_an_unknown_teacher_is_refused_unless_it_is_trusted(tmp_path, teacher, monkeypatch):
    folder = bundled(tmp_path / "s")
    said = refused(folder, teacher, trust=False)
    assert "it is unknown whether the statistics of ConvNetW16D3.pth" in said
    config = small(given={"statistics": str(folder)})
    with pytest.raises(UserError, match="squeezed here"):
        running.read(config, teacher, None, 10)
    from engine import backbones

    monkeypatch.setitem(running.KNOWN, backbones.fingerprint(teacher), "ConvNetW16D3.pth")
    assert len(read(folder, teacher, trust=False)) == 3
    monkeypatch.setitem(running.KNOWN, backbones.fingerprint(teacher), "Another.pth")
    refused(folder, teacher, trust=False)


def test_several_teachers_in_a_folder_are_told_apart(tmp_path, teacher):
    bundled(tmp_path / "s", "A.pth")
    bundled(tmp_path / "s", "B.pth")
    assert "several teachers: A.pth, B.pth" in refused(tmp_path / "s", teacher)
    assert len(read(tmp_path / "s" / "B.pth", teacher)) == 3


def test_what_is_no_such_statistics_is_said(tmp_path, teacher):
    assert "does not exist" in refused(tmp_path / "no" / "where", teacher)
    (tmp_path / "empty").mkdir()
    assert "contains no statistics" in refused(tmp_path / "empty", teacher)
    part = bundled(tmp_path / "part")
    (part / f"ConvNetW16D3.pth={NAMES[2]}" / "running.npz").unlink()
    assert "no statistics of layers.conv.2" in refused(part, teacher)
    assert "each layer's output" in refused(bundled(tmp_path / "output" / "ConvFeatureHook"), teacher)
    for number, (changes, said) in enumerate(
        [
            ({"running_cov": np.eye(3, dtype=np.float32)}, "(3, 3) instead of (16, 16)"),
            ({"running_cov": np.float64(0.0)}, "() instead of (16, 16)"),
            ({"running_mean": np.full(16, np.nan, np.float32)}, "not finite"),
            ({"running_cov": -np.eye(16, dtype=np.float32)}, "not a covariance"),
            ({"running_cov": np.tri(16, dtype=np.float32)}, "not a covariance"),
            ({"running_class_mean": np.zeros((16, 100), np.float32)}, "(16, 100) instead of (16, 10)"),
            ({"running_mean": np.zeros(16, np.int64)}, "not an array of floats"),
        ]
    ):
        assert said in refused(bundled(tmp_path / str(number), **changes), teacher)


def archive(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_hostile_archives_are_refused(tmp_path, teacher):
    folder = bundled(tmp_path / "s")
    path = folder / f"ConvNetW16D3.pth={NAMES[1]}" / "running.npz"
    good = {f"{key}.npy": npy(array) for key, array in made(1).items()}
    header = good["running_cov.npy"].replace(b"(16, 16), }", b"(9**9, 9), }")
    huge = good["running_cov.npy"].replace(b"(16, 16), }                ", b"(100000000, 10000), }      ")
    assert len(huge) == len(good["running_cov.npy"])
    for data in (npy(np.array([{"a": 1}], object)), header, huge, b"\x93NUMPY", b""):
        archive(path, good | {"running_cov.npy": data})
        assert "cannot be read" in refused(folder, teacher)
    archive(path, {"running_cov.npy": good["running_cov.npy"]})
    assert "cannot be read" in refused(folder, teacher)
    path.write_bytes(b"PK\3\4" + bytes(100))
    assert "cannot be read" in refused(folder, teacher)


def test_a_run_takes_them_instead_of_measuring(tmp_path, monkeypatch):
    monkeypatch.setenv("CFM_CACHE", str(tmp_path / "cache"))
    base = settings.resolve(preset="smoke", sets=["statistics.estimator=batched"]).config
    data = plan.prepare(base).data
    place = artefacts.ComputeContext(choose("cpu"), store.Cache())
    _, (teacher, _) = drive(artefacts.load_or_train_teacher(base, data, place))
    _, (real, _) = drive(artefacts.load_or_measure_statistics(base, data, teacher, place))
    for moments in real:
        folder = tmp_path / "stats" / f"T.pth={moments.name}"
        folder.mkdir(parents=True)
        arrays = {"cov": moments.cov_DD, "mean": moments.mean_D, "class_mean": moments.flc_DK}
        np.savez(folder / "running.npz", **{f"running_{key}": v.float().numpy() for key, v in arrays.items()})
    sets = ["statistics.estimator=batched", f"given.statistics={tmp_path / 'stats'}"]
    with pytest.raises(UserError, match="it is unknown"):
        drive(
            launch.run_experiment(
                settings.resolve(preset="smoke", sets=["repeats=1", *sets]), tmp_path / "run", "run"
            )
        )
    for name, extra in (("measured", sets[:1]), ("given", [*sets, "given.trust=true"])):
        resolved = settings.resolve(preset="smoke", sets=["repeats=1", *extra])
        _, results = drive(launch.run_experiment(resolved, tmp_path / name, "run"))
    told = results["repeats"][0]["provenance"]["statistics"]
    assert told["trusted"]
    assert told["fingerprint"] == json.loads((tmp_path / "given" / "manifest.json").read_text())["statistics"]
    assert results["repeats"][0]["timings"]["statistics"]["reused"]
    both = [images.read(tmp_path / name / "images").images_NCHW for name in ("measured", "given")]
    assert np.allclose(*both, atol=0.02)
    assert torch.is_tensor(real[0].cov_DD)
