"""CIFAR in every form of its official archives; damaged and hostile ones are refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engine.data
from engine.config import Data
from engine.data.cifar import CIFAR10_CLASSES, VERSIONS
from engine.errors import UserError

RNG = np.random.default_rng(0)


BATCHES = {f"data_batch_{index}": RNG.permutation(np.arange(20) % 10) for index in range(1, 6)}
BATCHES["test_batch"] = np.arange(20) % 10


PIXELS = {name: RNG.integers(0, 256, (20, 3072), dtype=np.uint8) for name in BATCHES}


def cifar_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, labels in BATCHES.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), PIXELS[name]], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def cifar_python(root: Path, protocol: int) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, labels in BATCHES.items():
        content = {"data": PIXELS[name], "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def cifar_tree(root: Path) -> Path:
    seen: dict[str, int] = {}
    for name, labels in BATCHES.items():
        for label, flat in zip(labels, PIXELS[name], strict=True):
            folder = root / "cifar10" / ("test" if name == "test_batch" else "train") / CIFAR10_CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            seen[str(folder)] = seen.get(str(folder), -1) + 1
            Image.fromarray(flat.reshape(3, 32, 32).transpose(1, 2, 0)).save(
                folder / f"{seen[str(folder)]}.png"
            )
    return root / "cifar10"


def load(name: str, root: Path, **settings: object) -> engine.data.DataSet:
    return engine.data.load(Data(name=name, root=str(root), **settings))


def test_every_form_of_cifar10_gives_the_same_data_set(tmp_path: Path) -> None:
    forms = [cifar_binary(tmp_path / "a"), cifar_tree(tmp_path / "b")]
    forms += [cifar_python(tmp_path / f"p{protocol}", protocol) for protocol in (2, 4, 5)]
    sets = [load("cifar10", path.parent) for path in forms] + [load("cifar10", path) for path in forms]
    assert len({data.fingerprint for data in sets}) == 1
    train = sets[0].train
    assert (len(train), len(sets[0].test), train.classes, train.size) == (100, 20, CIFAR10_CLASSES, 32)
    assert train.std == (0.2470, 0.2435, 0.2616)
    first_bird = next(index for index, label in enumerate(BATCHES["data_batch_1"]) if label == 2)
    where = train.labels_N.tolist().index(2)
    assert train.pixels([where]).numpy().tobytes() == PIXELS["data_batch_1"][first_bird].tobytes()


def test_python_2_pickles_are_read(tmp_path: Path) -> None:
    """Protocol 0 text as Python 2 wrote it: integer flags in the dtype, byte strings everywhere."""
    folder = cifar_python(tmp_path, 2)
    for name, labels in BATCHES.items():
        data = PIXELS[name].tobytes()
        stream = b"(dp0\nS'labels'\n(l" + b"".join(b"I%d\na" % label for label in labels) + b"sS'data'\n"
        stream += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        stream += b"(I1\n(I20\nI3072\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
        stream += b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nT" + len(data).to_bytes(4, "little") + data + b"tbs."
        (folder / name).write_bytes(stream)
    assert load("cifar10", folder).fingerprint == load("cifar10", cifar_binary(tmp_path / "a")).fingerprint


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call", [(os.system, "touch owned"), (eval, "1"), (np.ndarray, (10**9,)), (getattr, 1, "x")]
)
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, call: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar_python(tmp_path, 4)
    content = {"data": Hostile(*call), "labels": [0] * 20}
    (folder / "data_batch_3").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="data_batch_3 cannot be read safely"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "owned").exists()


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    folder = cifar_binary(tmp_path)
    whole = (folder / "data_batch_2.bin").read_bytes()
    (folder / "data_batch_2.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"data_batch_2\.bin has 61,459 bytes"):
        load("cifar10", tmp_path)
    (folder / "data_batch_2.bin").write_bytes(b"\xff" + whole[1:])
    with pytest.raises(UserError, match="labels outside"):
        load("cifar10", tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_2\.bin"):
        load("cifar10", tmp_path)


def test_holding_out_does_not_read_the_test_file(tmp_path: Path) -> None:
    (cifar_binary(tmp_path) / "test_batch.bin").unlink()
    assert len(load("cifar10", tmp_path, test="holdout").test) == 10
    with pytest.raises(UserError, match=r"test_batch\.bin"):
        load("cifar10", tmp_path)


def test_cifar100_takes_fine_labels(tmp_path: Path) -> None:
    names = [f"fine{index:02}" for index in range(100)]
    for version in ("cifar-100-binary", "cifar-100-python"):
        (tmp_path / version).mkdir()
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join(names))
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    fine, coarse = np.arange(100)[::-1].astype(np.uint8), np.zeros(100, np.uint8)
    pixels = RNG.integers(0, 256, (100, 3072), dtype=np.uint8)
    for split in ("train", "test"):
        records = np.concatenate([coarse[:, None], fine[:, None], pixels], axis=1)
        (tmp_path / "cifar-100-binary" / f"{split}.bin").write_bytes(records.tobytes())
        content = {"data": pixels, "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()}
        (tmp_path / "cifar-100-python" / split).write_bytes(pickle.dumps(content))
    binary = load("cifar100", tmp_path / "cifar-100-binary")
    assert binary.train.classes == tuple(names)
    assert binary.train.pixels([0]).numpy().tobytes() == pixels[99].tobytes()
    assert binary.fingerprint == load("cifar100", tmp_path / "cifar-100-python").fingerprint


def pickled(array: object) -> bytes:
    return pickle.dumps({"data": array, "labels": [0]})


PICKLES = {
    "bytes that are not there": (b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b".", "read safely"),
    "an array larger than its bytes": (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"\x89U\x04abcdtbs.", "cannot reshape"
    ),
    "an array of objects": (pickled(np.array([object], dtype=object)), "asks for builtins.object"),
    "an array of numbers": (pickled(np.zeros(3072)), "dtype"),
    "an array of another shape": (pickled(np.zeros(5, np.uint8)), "no uint8"),
    "an instance": (b"\x80\x02}U\x04datacnumpy\ndtype\n)\x81s.", "read safely"),
    "an old instance": (b"(S'x'\nios\nsystem\n.", "asks for os.system"),
    "a reference outside": (b"\x80\x02K\x01Q.", "persistent"),
    "a list": (b"\x80\x02].", "no dictionary"),
    "deep lists": (b"\x80\x02}X\x04\x00\x00\x00data" + b"]" * 200_000 + b"a" * 199_999 + b"s.", "no uint8"),
    "half": (pickled(np.zeros(1000))[:500], "cannot be read"),
    "nothing": (b"", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_what_is_no_batch_is_refused(tmp_path: Path, name: str) -> None:
    data, said = PICKLES[name]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index in range(1, 6):
        (folder / f"data_batch_{index}").write_bytes(data)
    with pytest.raises(UserError, match=said) as caught:
        VERSIONS["cifar10"][1].read(folder, want_test=False)
    assert caught.value.kind == "data"
    assert "data_batch_1" in caught.value.message


@pytest.mark.parametrize(
    "labels", [[10**30], [-1], [True], ["1"], 5, [[0]], [256], {"a": 1}], ids=lambda labels: str(labels)
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: object) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for index in range(1, 6):
        content = {"data": np.zeros((1, 3072), np.uint8), "labels": labels}
        (folder / f"data_batch_{index}").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="one number an image"):
        VERSIONS["cifar10"][1].read(folder, want_test=False)


@pytest.mark.parametrize(
    "names", [["a"], 5, "x" * 100, [["a"]] * 100, ["a\x1b[2J"] * 100, ["x" * 5000] * 100, [None] * 100]
)
def test_class_names_that_are_none_are_refused(tmp_path: Path, names: object) -> None:
    (tmp_path / "train").touch()
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    with pytest.raises(UserError, match="class names"):
        VERSIONS["cifar100"][1].read(tmp_path, want_test=False)
