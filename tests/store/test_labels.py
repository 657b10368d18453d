import numpy as np
import pytest

from engine.errors import UserError
from engine.store import labels

SHAPE = (4, 5, 3)
LOGITS = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)


def written(folder, done=0, upto=4):
    writer = labels.LabelWriter(folder, "distilled", SHAPE, done)
    for epoch in range(done, upto):
        writer.put(epoch, LOGITS[epoch])
        writer.sync()
    if upto == 4:
        writer.finish()
    writer.close()


@pytest.mark.parametrize("done", range(5))
def test_labels_taken_up_after_any_epoch_come_back_bit_for_bit(tmp_path, done):
    written(tmp_path, upto=min(done + 1, 3) if done < 4 else 3)
    assert labels.Labels.open(tmp_path, "distilled") is None
    assert (tmp_path / "distilled.safetensors.partial").is_file()
    written(tmp_path, done=min(done, 3))
    stored = labels.Labels.open(tmp_path, "distilled")
    assert (stored.epochs, stored.shape("logits")) == (4, SHAPE)
    assert np.array_equal([stored.epoch(index) for index in range(4)], LOGITS)
    assert stored.epoch(0).dtype == np.float16
    assert stored.check() == []
    assert not (tmp_path / "distilled.safetensors.partial").is_file()
    assert labels.Labels.open(tmp_path, "random") is None


def test_a_damaged_epoch_is_named_and_the_others_are_read(tmp_path):
    written(tmp_path)
    path = tmp_path / "distilled.safetensors"
    content = bytearray(path.read_bytes())
    start = bytes(content).index(LOGITS[2].tobytes())
    content[start + 7] ^= 1
    path.write_bytes(content)
    stored = labels.Labels.open(tmp_path, "distilled")
    with pytest.raises(UserError, match=r"distilled\.safetensors is damaged: epoch 2 ") as caught:
        stored.epoch(2)
    assert "delete it" in caught.value.hint
    assert len(stored.check()) == 1
    assert np.array_equal(stored.epoch(3), LOGITS[3])
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="its header"):
        labels.Labels.open(tmp_path, "distilled")


def test_labels_of_another_shape_or_source_are_not_taken_up(tmp_path):
    written(tmp_path, upto=2)
    with pytest.raises(UserError, match="a different table"):
        labels.LabelWriter(tmp_path, "distilled", (4, 6, 3), 1)
    partial = tmp_path / "distilled.safetensors.partial"
    partial.rename(tmp_path / "random.safetensors.partial")
    with pytest.raises(UserError, match="a different table"):
        labels.LabelWriter(tmp_path, "random", SHAPE, 1)
