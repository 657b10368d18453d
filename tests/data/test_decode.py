"""Pictures that are bombs or no pictures: refused on every way in, in little time and memory."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

import engine.data
from engine.config import Data
from engine.data import decode
from engine.data.pictures import Files, PictureEntry
from engine.errors import UserError
from engine.importers import folders

PEAK = Path("/proc/self/clear_refs")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    *before: bytes, size: tuple[int, int] = (16, 16), idat: bytes | None = None, after: bytes = b""
) -> bytes:
    width, height = size
    if idat is None:
        idat = zlib.compress(b"".join(b"\0" + bytes(width * 3) for _ in range(height)))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", idat) + after + chunk(b"IEND", b"")


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (16, 16)).save(stream, kind, **options)
    return stream.getvalue()


def frames(kind: str) -> bytes:
    """A first frame in red, and others in blue."""
    stream = io.BytesIO()
    first, other = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(stream, kind, save_all=True, append_images=[other] * 3)
    return stream.getvalue()


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    data = bytearray(saved("GIF", "P"))
    at = data.index(b",", 13)
    data[6:10] = struct.pack("<HH", *screen)
    data[at + 5 : at + 9] = struct.pack("<HH", *frame)
    return bytes(data)


def webp() -> bytes:
    data = bytearray(frames("WEBP"))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = b"\xfe\x3f\0\xfe\x3f\0"
    return bytes(data)


def tiff(*tags: tuple[int, int, int]) -> bytes:
    """Grey, 16 px, with other tags: number, count, value."""
    fields = [(256, 1, 16), (257, 1, 16), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1), *tags]
    body = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in sorted(fields))
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + body + bytes(1004)


BOMB = zlib.compress(bytes(64 * 1024**2))
JPEG = saved("JPEG")
BAD: dict[str, bytes] = {
    "text": png(chunk(b"zTXt", b"k\0\0" + BOMB)),
    "text at the end": png(after=chunk(b"zTXt", b"k\0\0" + BOMB)),
    "international text": png(chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)),
    "colour profile": png(chunk(b"iCCP", b"k\0\0" + BOMB)),
    "many texts": png(*[chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(1_000_000))) for n in range(80)]),
    "png, 60,000 px": png(size=(60_000, 60_000), idat=b""),
    "png, 95 million pixels": png(size=(10_000, 9_500), idat=b""),
    "png, one long row": png(size=(2**31 - 1, 1), idat=b""),
    "png, no pixels": png(size=(0, 0)),
    "png, half": png()[:50],
    "jpeg, half": JPEG[: len(JPEG) // 2],
    "jpeg, huge": JPEG.replace(b"\x00\x10\x00\x10\x03", b"\xff\xff\xff\xff\x03", 1),
    "gif, huge screen": gif((65_535, 65_535), (16, 16)),
    "gif, huge frame": gif((16, 16), (65_535, 65_535)),
    "gif, frame of 56 million pixels that is not there": gif((16, 16), (8_000, 7_000)),
    "webp, huge canvas": webp(),
    "tiff, huge tile": tiff((322, 1, 2**31 - 16), (323, 1, 16), (324, 1, 200), (325, 1, 100)),
    "tiff, tile of 60,000 px": tiff((322, 1, 60_000), (323, 1, 60_000), (324, 1, 200), (325, 1, 100)),
    "tiff, a million strips": tiff((273, 2**20, 200), (279, 2**20, 100)),
    "ppm, huge": b"P6 60000 60000 255\n",
    "ppm, senseless": b"P6 16 16 99999999999\n" + bytes(800),
    "bmp, huge": b"BM" + struct.pack("<IHHIIIIHHIIIIII", 99, 0, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
    "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n",
    "nothing": b"",
}  # fmt: skip


def files(path: Path) -> Files:
    return Files(path.parent, (PictureEntry.read(path.parent, path.name),), np.zeros(1, np.int64))


def peak() -> int:
    """The largest memory of this process so far, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmHWM:")
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("name", BAD)
def test_a_bomb_is_a_bad_image_and_takes_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "picture.png"  # the extension is not trusted
    path.write_bytes(BAD[name])
    measurable = os.access(PEAK, os.W_OK)
    if measurable:
        PEAK.write_text("5")
        before = peak()
    with pytest.raises(decode.BadImage) as caught, decode.open_picture(files(path), 0) as image:
        decode.decode_square(image, 16, 3)
    assert str(caught.value)
    if measurable:
        assert peak() - before < 300


def in_folder(path: Path) -> None:
    engine.data.load(Data(name="folder", root=str(path.parents[2]), image_size=16, test="holdout"))


def streamed(path: Path) -> None:
    images = engine.data.load(Data(name="imagenet", root=str(path.parents[2]), image_size=16)).train
    images.pixels(range(len(images)))


def scored(path: Path) -> None:
    like = engine.data.load(Data()).train
    folders.read_images(path, like, like.classes[0])


@pytest.mark.parametrize("name", ["text", "png, 60,000 px", "png, 95 million pixels", "jpeg, half"])
@pytest.mark.parametrize("way", [in_folder, streamed, scored])
def test_every_way_in_names_the_picture(tmp_path: Path, way: Callable[[Path], None], name: str) -> None:
    for split in ("train", "val"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(3):
                (tmp_path / split / label / f"{index}.png").write_bytes(png())
    path = tmp_path / "train" / "b" / "1.png"
    path.write_bytes(BAD[name])
    with pytest.raises(UserError, match=r"b/1\.png") as caught:
        way(path)
    assert caught.value.kind == "data"
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_many_frames_the_first_is_taken(tmp_path: Path, kind: str) -> None:
    (tmp_path / "picture.png").write_bytes(frames(kind))
    with decode.open_picture(files(tmp_path / "picture.png"), 0) as image:
        red, _, blue = decode.decode_square(image, 16, 3)
    assert red.min() > 200
    assert blue.max() < 50


MODES = [("1", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")]
MODES += [
    ("CMYK", "TIFF"),
    ("I", "TIFF"),
    ("F", "TIFF"),
    ("YCbCr", "TIFF"),
    ("I;16", "TIFF"),
]


@pytest.mark.parametrize(("mode", "kind"), MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, kind: str, channels: int) -> None:
    (tmp_path / "picture.png").write_bytes(saved(kind, mode))
    with decode.open_picture(files(tmp_path / "picture.png"), 0) as image:
        pixels = decode.decode_square(image, 20, channels)
    assert (pixels.shape, pixels.dtype) == ((channels, 20, 20), np.uint8)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working: list[int] = []
    original = decode._convert_mode

    def watched(image: Image.Image, channels: int) -> Image.Image:
        working.append(1)
        assert len(working) == 1
        found = original(image, channels)
        working.pop()
        return found

    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(png(size=(200, 200)))
    entries = tuple(PictureEntry.read(tmp_path, f"{index}.png") for index in range(8))
    monkeypatch.setattr(decode, "_convert_mode", watched)
    monkeypatch.setattr(decode, "_LARGE_PIXELS", 30_000)
    monkeypatch.setattr("engine.device.cpus", lambda: 4)
    (found,) = decode.decode_chunks(Files(tmp_path, entries, np.zeros(8, np.int64)), 16, 3)
    assert found.bad == []


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (97, 65), (51, 200), (333, 500), (72, 73), (75, 72)])
@pytest.mark.parametrize(("resize", "crop"), [(72, 64), (73, 64), (64, 64), (40, 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_framing_is_that_of_torchvision(
    size: tuple[int, int], resize: int, crop: int, channels: int
) -> None:
    shape = (size[1], size[0], 3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    image = image.convert("L") if channels == 1 else image
    framed = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])(image)
    wanted = np.asarray(framed).reshape(crop, crop, channels).transpose(2, 0, 1)
    assert np.array_equal(decode.decode_square(image, crop, channels, resize=resize), wanted)
    if resize == crop and size[0] == size[1]:
        assert np.array_equal(decode.decode_square(image, crop, channels), wanted)


def test_a_strip_that_would_grow_beyond_all_bounds_is_no_image() -> None:
    image = Image.new("L", (60_000, 2))
    with pytest.raises(decode.BadImage, match="7680000×256 pixels"):
        decode.decode_square(image, 224, 1, resize=256)
