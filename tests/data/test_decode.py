"""Pictures that are bombs or no pictures: refused on every way in, in little time and memory."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_trees import make_tree
from PIL import ExifTags, Image, ImageOps
from torchvision import transforms

import engine.data
from engine.config import Data
from engine.data import decode
from engine.data.check import check
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
MODES += [("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("I;16", "TIFF"), ("1", "TIFF"), ("1", "BMP"), ("L", "WEBP")]


def decoded(path: Path, channels: int = 3, size: int = 16) -> np.ndarray:
    with decode.open_picture(files(path), 0) as image:
        return decode.decode_square(image, size, channels)


@pytest.mark.parametrize(("mode", "kind"), MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, kind: str, channels: int) -> None:
    """The left half is black and the right one white, whatever the mode is."""
    if mode == "I;16":
        picture = Image.fromarray(
            np.repeat(np.array([0, 65535], np.uint16), 8) + np.zeros((16, 1), np.uint16)
        )
    else:
        colour = Image.new("RGB", (16, 16), "black")
        colour.paste("white", (8, 0, 16, 16))
        picture = colour.convert(mode)
    picture.save(tmp_path / "picture.png", kind)
    pixels = decoded(tmp_path / "picture.png", channels)
    assert (pixels.shape, pixels.dtype) == ((channels, 16, 16), np.uint8)
    assert pixels[:, :, :7].max() < 10
    assert pixels[:, :, 9:].min() > 245
    assert decoded(tmp_path / "picture.png", channels, 20).shape == (channels, 20, 20)


RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)


def packed12(levels: np.ndarray) -> bytes:
    """An uncompressed TIFF of 16 × 16 pixels with 12 bits each."""
    bits = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    fields = [
        (256, 16),
        (257, 16),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 122),
        (277, 1),
        (278, 16),
        (279, 384),
    ]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + body + bytes(4) + np.packbits(bits).tobytes()


def test_12_and_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    for kind in ("PNG", "TIFF"):
        Image.fromarray(RAMP).save(path, kind)
        assert np.array_equal(decoded(path, 1)[0], RAMP // 257)
    path.write_bytes(packed12(RAMP // 16))
    assert np.abs(decoded(path, 1)[0].astype(int) - RAMP // 257).max() <= 1
    path.write_bytes(b"P5 16 16 4095\n" + (RAMP // 16).astype(">u2").tobytes())
    assert np.abs(decoded(path, 1)[0].astype(int) - RAMP // 257).max() <= 1


def deep_png(levels: np.ndarray) -> bytes:
    """Levels as grey colours with 16 bits per channel."""
    rows = np.repeat(levels.astype(">u2"), 3, axis=1).view(np.uint8).reshape(16, -1)
    data = png(idat=zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    head = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    return data.replace(chunk(b"IHDR", head), chunk(b"IHDR", head[:8] + b"\x10" + head[9:]))


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "float": (lambda path: Image.fromarray(RAMP.astype(np.float32) / 65535).save(path, "TIFF"), "floating"),
    "32 bits": (lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path, "TIFF"), "32-bit"),
    "float map": (lambda path: path.write_bytes(b"Pf 16 16 -1.0\n" + bytes(1024)), "floating"),
    "12 of 16 bits": (lambda path: Image.fromarray(RAMP // 16).save(path, "PNG"), "1/16 of their range"),
    "8 of 16 bits": (lambda path: Image.fromarray(RAMP // 256).save(path, "TIFF"), "1/16 of their range"),
    "12 of 16 bits in colour": (
        lambda path: path.write_bytes(deep_png(RAMP // 16)),
        "16-bit pixels that use",
    ),
    "shape in the transparency": (
        lambda path: Image.merge("LA", [Image.new("L", (16, 16)), Image.fromarray(RAMP).convert("L")]).save(
            path, "PNG"
        ),
        "transparency",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_pixels_that_would_become_black_are_refused_by_name_and_type(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    write, said = UNFIT[name]
    write(tmp_path / "train" / "b" / "1.png")
    settings = Data(name="folder", root=str(tmp_path))
    with pytest.raises(UserError, match=rf"train/b/1\.png \(.*{said}"):
        engine.data.load(settings)
    ((problem),) = check(settings)["unreadable"]
    assert said in problem["reason"]


def test_a_set_of_nothing_but_unfit_pictures_is_refused(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(2):
            UNFIT["float"][0](tmp_path / folder / f"{index}.tif")
    settings = Data(name="folder", root=str(tmp_path))
    with pytest.raises(UserError, match=r"4 of 4 .*train/a/0\.tif \(floating"):
        engine.data.load(settings)
    report = check(settings)
    assert len(report["unreadable"]) == 8
    assert "the train split has no readable images of a, b" in report["problems"]


def test_an_unfit_type_is_found_before_a_streamed_set_is_used(tmp_path: Path) -> None:
    make_tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    UNFIT["float"][0](tmp_path / "val" / "b" / "0.png")
    with pytest.raises(UserError, match=r"1 of 2 .*val/b/0\.png \(floating"):
        engine.data.load(Data(name="imagenet", root=str(tmp_path), image_size=16))


def test_colours_of_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(deep_png(RAMP))
    assert np.abs(decoded(tmp_path / "picture.png")[0].astype(int) - RAMP // 257).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("number", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, number: int) -> None:
    path = tmp_path / "picture.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    ramp = np.add.outer(4 * np.arange(40), 2 * np.arange(24)).astype(np.uint8)
    options = {} if kind in ("PNG", "TIFF") else {"quality": 100}
    Image.fromarray(ramp).convert("RGB").save(path, kind, exif=exif, **options)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    width, height = expected.size
    square = expected.resize((16, 16), Image.Resampling.BILINEAR, box=decode.frame_box(width, height))
    assert np.array_equal(decoded(path), np.asarray(square).transpose(2, 0, 1))
    with decode.open_picture(files(path), 0) as image:
        assert decode.upright_size(image) == expected.size
        assert decode.list_conversions(image) == (["turned upright (EXIF)"] if number > 1 else [])


def test_crops_of_a_streamed_set_are_taken_from_the_upright_picture(tmp_path: Path) -> None:
    ramp = np.add.outer(2 * np.arange(64), np.arange(96)).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(ramp).convert("RGB").save(tmp_path / split / name / "0.png", exif=exif)
    images = engine.data.load(Data(name="imagenet", root=str(tmp_path), image_size=32)).train
    upright = Image.fromarray(np.rot90(ramp, -1).copy()).convert("RGB")
    box = np.array([[4, 8, 16, 16]])  # top, left, height, width in a frame of 32 px
    found = images._decode(np.array([0]), box)[0].numpy()
    left, top, right, bottom = 16, 16 + 8, 16 + 32, 16 + 8 + 32  # the frame is the central 64 of 64 × 96
    expected = upright.resize((32, 32), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


def test_damaged_exif_data_does_not_matter(tmp_path: Path) -> None:
    for index, data in enumerate(
        [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(60))]
    ):
        path = tmp_path / f"{index}.jpg"
        Image.new("RGB", (16, 16), "white").save(path, "JPEG", exif=data)
        with warnings.catch_warnings(action="ignore"):  # Pillow's, while it opens the file
            assert decoded(path).min() > 250


def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working: list[int] = []
    original = decode._convert

    def watched(image: Image.Image, channels: int) -> Image.Image:
        working.append(1)
        assert len(working) == 1
        found = original(image, channels)
        working.pop()
        return found

    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(png(size=(200, 200)))
    entries = tuple(PictureEntry.read(tmp_path, f"{index}.png") for index in range(8))
    monkeypatch.setattr(decode, "_convert", watched)
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
