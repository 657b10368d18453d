"""Files of the DC and MTT families are read; what is none, or could run code, is refused in words."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from interchanged import class_sorted, dc_file, labels, levels, mtt_files, normalised
from spoiling import pickled
from stages import small

from engine.errors import UserError
from engine.importers import distilled, pt_files
from engine.importers.distilled import fingerprint
from engine.store import images

PIXELS, LABELS = levels(2), labels(2)


def read(digits, path, **given):
    (found,) = distilled.read(small(given={"images": str(path), **given}), digits)
    return found


def refused(digits, path, **given):
    with pytest.raises(UserError) as caught:
        read(digits, path, **given)
    assert caught.value.hint
    return caught.value.message


def test_a_dc_file_holds_a_set_for_each_experiment(tmp_path, digits):
    mean, std = digits.train.mean, digits.train.std
    sorted_pixels, sorted_labels = class_sorted(PIXELS, LABELS)
    path = dc_file(tmp_path / "res.pt", normalised(sorted_pixels, mean, std), sorted_labels)
    found = read(digits, path, experiment=1)
    assert np.array_equal(images.to_bytes(found.pixels_NCHW), PIXELS)
    assert found.fingerprint == fingerprint(PIXELS, LABELS)
    assert (found.facts["clipped"], found.facts["values"]) == (0, PIXELS.size)
    assert read(digits, path).fingerprint != found.fingerprint
    assert "contains 2 sets, but no set 2" in refused(digits, path, experiment=2)


def test_values_beyond_the_range_of_pixels_are_clipped_and_counted(tmp_path, digits):
    mean, std = digits.train.mean, digits.train.std
    changed = normalised(PIXELS, mean, std)
    changed[3, 0, 2, :5] = 100.0
    changed[4, 0, 0, 0] = -100.0
    changed[5, 0, 0, 0] = (0.0 - mean[0]) / std[0] - 1e-4  # rounded, not clipped
    found = read(digits, dc_file(tmp_path / "res.pt", changed, LABELS, 1))
    assert found.facts["clipped"] == 6
    assert found.pixels_NCHW.max() == 1.0
    told = [notice for notice in found.notices() if notice.level == "warning"]
    assert "6 of 5,120 values (0.12 %)" in told[0].message


def test_mtt_files_must_say_what_their_values_are(tmp_path, digits):
    mean, std = digits.train.mean, digits.train.std
    path = mtt_files(tmp_path / "mtt", normalised(PIXELS, mean, std), LABELS)
    assert "may be ZCA-whitened" in refused(digits, path)
    assert "is ZCA-whitened" in refused(digits, path, space="zca")
    found = read(digits, path, space="normalised")
    assert found.fingerprint == fingerprint(PIXELS, LABELS)
    assert read(digits, tmp_path / "mtt", space="normalised").fingerprint == found.fingerprint
    other = read(digits, path, space="normalised", mean=[0.5], std=[0.1])
    assert other.facts["mean"] == [0.5]
    assert other.fingerprint != found.fingerprint


def saved(path, content):
    torch.save(content, path)
    return path


def test_images_and_labels_in_one_file(tmp_path, digits):
    """As IDC and DREAM save them, with pixels in [0, 1]; also several such pairs, or labels as numbers."""
    pixels, labels_N = torch.from_numpy(PIXELS).float() / 255, torch.from_numpy(LABELS)
    contents = {
        "list": [pixels, labels_N],
        "tuple": (pixels, LABELS.tolist()),
        "several": [[pixels.flip(0), labels_N], [pixels, labels_N]],
    }
    for name, content in contents.items():
        path = saved(tmp_path / f"{name}.pt", content)
        found = read(digits, path, experiment=1 if name == "several" else 0)
        assert found.fingerprint == fingerprint(PIXELS, LABELS), name
        assert (found.facts["layout"], found.facts["space"]) == ("pair", "pixels")
    normal = normalised(PIXELS, digits.train.mean, digits.train.std)
    path = saved(tmp_path / "normal.pt", [normal, labels_N])
    assert "may be ZCA-whitened" in refused(digits, path)
    assert read(digits, path, space="normalised").fingerprint == fingerprint(PIXELS, LABELS)
    assert "a list of 3" in refused(digits, saved(tmp_path / "three.pt", [normal, labels_N, 1]))


def test_images_alone_need_labels_and_the_option_is_named(tmp_path, digits):
    pixels, labels_N = class_sorted(PIXELS, LABELS)
    path = saved(tmp_path / "data.pt", torch.from_numpy(pixels))
    with pytest.raises(UserError, match="holds 20 images without labels") as caught:
        read(digits, path)
    assert "--image-labels FILE" in caught.value.hint
    assert "--image-labels class-major" in caught.value.hint
    assert "beside" not in caught.value.hint
    with pytest.raises(UserError) as caught:
        read(digits, saved(tmp_path / "images_7.pt", torch.from_numpy(pixels)))
    assert "beside the images as labels_7.pt" in caught.value.hint
    labels_path = saved(tmp_path / "y.pt", torch.from_numpy(labels_N))
    for given in ("class-major", str(labels_path)):
        assert read(digits, path, image_labels=given).fingerprint == fingerprint(PIXELS, LABELS)
    assert "does not exist" in refused(digits, path, image_labels="nowhere.pt")
    odd = saved(tmp_path / "odd.pt", torch.from_numpy(pixels[:19]))
    assert "not equally many" in refused(digits, odd, image_labels="class-major")
    assert "needs a .pt file" in refused(digits, tmp_path, image_labels="class-major")


def test_values_that_do_not_fit_their_space_are_refused_with_the_one_that_fits(tmp_path, digits):
    mean, std = digits.train.mean, digits.train.std
    normal, labels_N = normalised(PIXELS, mean, std), torch.from_numpy(LABELS)
    values = {
        "bytes": torch.from_numpy(PIXELS),
        "pixels": torch.from_numpy(PIXELS).float() / 255,
        "normalised": normal,
    }
    for space, tensor in values.items():
        path = saved(tmp_path / f"{space}.pt", {"data": [[tensor, labels_N]]})
        assert read(digits, path, space=space).fingerprint == fingerprint(PIXELS, LABELS)
        for other in values.keys() - {space}:
            with pytest.raises(UserError, match=r"would be clipped|lie in \[0, 1\]") as caught:
                read(digits, path, space=other)
            assert f"--space {space}" in caught.value.hint, (space, other)
    path = saved(tmp_path / "own.pt", {"data": [[normal, labels_N]]})
    with pytest.raises(UserError, match="would be clipped") as caught:
        read(digits, path, mean=[0.5], std=[1.0])
    assert "leave given.mean and given.std out" in caught.value.hint
    assert read(digits, path, mean=[0.5], std=[1.0], max_clipped=1.0).facts["clipped"]
    assert (
        read(
            digits,
            saved(tmp_path / "b.pt", values["bytes"]),
            image_labels=str(saved(tmp_path / "y.pt", labels_N)),
        ).facts["space"]
        == "bytes"
    )


def test_images_that_mtt_brought_back_are_pixels_and_soft_labels_give_a_class(tmp_path, digits):
    soft = torch.nn.functional.one_hot(torch.from_numpy(LABELS)).float() * 3 - 1
    mtt_files(tmp_path, torch.from_numpy(PIXELS).float() / 255, soft, "5000")
    os.rename(tmp_path / "images_5000.pt", tmp_path / "images_zca_5000.pt")
    found = read(digits, tmp_path / "images_zca_5000.pt")
    assert found.fingerprint == fingerprint(PIXELS, LABELS)
    assert any("soft labels are ignored" in notice.message for notice in found.notices())


def test_the_families_numbers_are_not_the_sets_own():
    """CIFAR-10's own deviations are 0.247…; DC, MTT and DD-Ranking divide by 0.2023…."""
    assert pt_files.OF_FAMILY["cifar10"] == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_a_list_of_sets_that_is_none(tmp_path, digits):
    normal = normalised(PIXELS, digits.train.mean, digits.train.std)
    bad = {
        "nothing": ({"other": 1}, "its keys are 'other'"),
        "odd keys": ({("a",): 1, 2: 3}, "its keys are tuple, int"),
        "a number": ({"data": 3}, "no distilled sets"),
        "one part": ({"data": [[normal]]}, "no distilled sets"),
        "text": ({"data": [["images", "labels"]]}, "contains no images"),
        "size": ({"data": [[torch.zeros(4, 3, 32, 32), torch.zeros(4)]]}, "3×32×32"),
        "count": ({"data": [[normal, torch.zeros(3)]]}, "not a tensor of 20 labels"),
        "label": ({"data": [[normal, torch.full((20,), 10)]]}, "labels from 0 to 9"),
        "fraction": ({"data": [[normal, torch.full((20,), 0.5)]]}, "labels from 0 to 9"),
        "soft": ({"data": [[normal, torch.zeros(20, 7)]]}, "7 classes instead of 10"),
        "nan": ({"data": [[normal / 0, torch.zeros(20)]]}, "not finite"),
        "empty": ({"data": [[normal[:0], torch.zeros(0)]]}, "the tensor is empty"),
        "sparse": ({"data": [[normal.to_sparse(), torch.zeros(20)]]}, "contains no images"),
        "view": ({"data": [[torch.zeros(1).expand(10**9, 1, 16, 16), torch.zeros(1)]]}, "more numbers than"),
    }
    for name, (content, said) in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
        assert said in refused(digits, tmp_path / f"{name}.pt"), name


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


class BuiltIn:
    def __reduce__(self):
        return print, ("ran",)


def scalar(kind: bytes, content: bytes, core: bytes = b"numpy.core") -> bytes:
    """A pickle of one of NumPy's numbers, its dtype and bytes as given."""
    text = content.decode("latin1").encode()
    return (
        b"\x80\x02c" + core + b".multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00" + kind
        + b"K\x00K\x01\x87Rc_codecs\nencode\nX" + len(text).to_bytes(4, "little") + text
        + b"X\x06\x00\x00\x00latin1\x86R\x86R."
    )  # fmt: skip


def test_nothing_in_a_file_runs(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"data": [Evil()]}, "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"data": [BuiltIn()]}, "builtin.pt")
    for name in ("evil.pt", "bare.pt", "builtin.pt"):
        assert "could run code, so it is refused" in refused(digits, tmp_path / name)
    mtt_files(tmp_path, torch.zeros(20, 1, 16, 16), LABELS)
    torch.save(Evil(), tmp_path / "labels_best.pt")
    assert "could run code" in refused(digits, tmp_path / "images_best.pt", space="pixels")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_numbers_of_numpy_are_read_by_a_stand_in(tmp_path, core):
    path = pickled(tmp_path / "n.pt", scalar(b"f8", np.float64(0.5).tobytes(), core))
    assert pt_files.safe_loading.read(path, pt_files.WORDING) == 0.5


@pytest.mark.parametrize(
    ("kind", "content"), [(b"O8", b"\0" * 8), (b"f8", b"\0" * 7), (b"V8", b"\0" * 8), (b"U1", b"\0" * 4)]
)
def test_numbers_that_are_objects_or_of_another_length_are_refused(tmp_path, digits, kind, content):
    refused(digits, pickled(tmp_path / "n.pt", scalar(kind, content)))


def test_a_file_that_is_no_archive_or_lies_of_its_size(tmp_path, digits):
    (tmp_path / "text.pt").write_text("hello")
    assert "cannot be read" in refused(digits, tmp_path / "text.pt")
    stream = io.BytesIO()
    torch.save({"data": [[torch.zeros(10**6), torch.zeros(1)]]}, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as made:
        for record in source.infolist():
            made.writestr(record.filename, source.read(record))
    assert "compressed" in refused(digits, tmp_path / "bomb.pt")
    assert "not a file" in refused(digits, tmp_path / "nowhere.pt")
    (tmp_path / "x.safetensors").write_bytes(b"\x08" + bytes(15))
    assert "damaged" in refused(digits, tmp_path / "x.safetensors")
