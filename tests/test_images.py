"""Pictures of every kind that Pillow reads: the same rules for training data and for the explain page."""

import io
import os
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_datasets import in_time, letter_files, make_folder  # noqa: F401

import minicnn as mc
from minicnn.datasets import read_notmnist
from minicnn.datasets.images import read_image


def saved(image, file_format="PNG", **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, file_format, **options)
    return file.getvalue()


SHAPE = np.zeros((28, 28), np.uint8)  # a letter: the same on every ground
SHAPE[4:24, 6:10] = SHAPE[20:24, 6:20] = 255
GREY = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)


def drawn(ink, mode="RGBA"):
    """The shape in this ink on a transparent ground."""
    image = Image.new("LA", (28, 28), (ink, 0))
    image.putalpha(Image.fromarray(SHAPE))
    return image.convert(mode)


def palette(transparency):
    image = Image.fromarray(np.where(SHAPE, 0, 1).astype(np.uint8), "L").copy()
    image = Image.frombytes("P", (28, 28), image.tobytes())
    image.putpalette([0, 0, 0, 255, 0, 255])  # the ink is black; the ground is magenta, and transparent
    return image, {"transparency": transparency}


def animated():
    frames = [Image.fromarray(GREY), Image.fromarray(SHAPE)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


WIDE = GREY.astype(np.uint16) * 257  # the same grey levels in 16 bits
HIGH_BYTE_FIRST = Image.frombytes("I;16B", (28, 28), WIDE.astype(">u2").tobytes())
BLACK_IS_0, WHITE_IS_0 = (struct.pack("<HHLHH", 262, 3, 1, value, 0) for value in (1, 0))  # a tag of a TIFF
ONE_BIT = (GREY > 99).astype(np.uint8) * 255
PICTURES = {
    "grey": (saved(GREY), GREY),
    "black ink on a transparent ground": (saved(drawn(0)), 255 - SHAPE),
    "white ink on a transparent ground": (saved(drawn(255)), SHAPE),
    "grey with transparency": (saved(drawn(0, "LA")), 255 - SHAPE),
    "a palette with a transparent entry": (saved(palette(1)[0], transparency=1), 255 - SHAPE),
    "a palette with levels of transparency": (saved(palette(1)[0], transparency=bytes([255, 0])), 255 - SHAPE),
    "a transparent grey level": (saved(SHAPE, transparency=0), SHAPE),
    "16 bits": (saved(WIDE), GREY),
    "16 bits in a TIFF": (saved(WIDE, "TIFF"), GREY),
    "16 bits in a TIFF, high byte first": (saved(HIGH_BYTE_FIRST, "TIFF"), GREY),
    "16 bits in a TIFF, where 0 is white": (saved(WIDE, "TIFF").replace(BLACK_IS_0, WHITE_IS_0), 255 - GREY),
    "16 bits in a PGM": (saved(WIDE, "PPM"), GREY),
    "16 bits with a transparent value": (saved(np.where(SHAPE, 65535, 7).astype(np.uint16), transparency=7), SHAPE),
    "one bit": (saved(Image.fromarray(ONE_BIT).convert("1")), ONE_BIT),
    "colour": (saved(Image.fromarray(GREY).convert("RGB")), GREY),
    "inks": (saved(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "TIFF"), GREY),
    "an animation": (animated(), GREY),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), PICTURES.values(), ids=PICTURES)
def test_a_picture_of_any_kind_is_read_as_it_looks(data, expected):
    found = read_image(data)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read_image(data, invert=True), 255 - expected)
    np.testing.assert_array_equal(read_image(data, mode="RGB"), np.stack([expected] * 3, axis=2))


def test_16_bits_are_scaled_and_not_cut():
    np.testing.assert_array_equal(read_image(saved(np.array([[0, 510, 32768, 65535]], np.uint16))), [[0, 2, 128, 255]])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_picture_is_turned_as_the_camera_was_held(file_format):
    pixels = GREY[:20]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        data = saved(pixels, file_format, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(read_image(data), upright)
        assert upright.shape == ((20, 28) if orientation < 5 else (28, 20))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_pixels_whose_white_is_not_known_are_refused(dtype):
    with pytest.raises(mc.FileError, match="which one is white"):
        read_image(saved(GREY.astype(dtype), "TIFF"))


def test_training_data_and_the_explain_page_are_read_by_the_same_rules(tmp_path):
    model = mc.networks.logistic_regression()
    own = {f"A/{k}.png": data for k, (data, _) in enumerate(PICTURES.values()) if data.startswith(b"\x89PNG")}
    folder = make_folder(tmp_path / "letters", letter_files(each=2) | own)
    data = read_notmnist(folder)
    assert data.skipped == [] and len(own) > 8
    for name, content in own.items():
        image = data.images[data.names.index(name)]
        np.testing.assert_array_equal(image, read_image(content))
        for invert in (False, True):
            shown = mc.explain(model, folder / name, invert=invert).data["input"]
            np.testing.assert_array_equal(np.round(shown[0] * 255), 255 - image if invert else image)


def test_only_a_picture_is_inverted_by_explain():
    with pytest.raises(mc.InputError, match="invert"):
        mc.explain(mc.networks.logistic_regression(), GREY, invert=True)


# Broken pictures


def test_no_changed_bit_of_a_png_gives_another_picture():
    """Pillow alone reads some of them without an error."""
    good = saved(GREY[:5, :5], pnginfo=None)
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= 1 << position % 8
        with pytest.raises(mc.FileError):
            read_image(bytes(data))
    np.testing.assert_array_equal(read_image(good + b"more"), GREY[:5, :5])


FORMATS = [
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "WEBP",
    "TGA",
    "PCX",
    "ICO",
    "SGI",
    "DDS",
    "QOI",
    "BLP",
    "JPEG2000",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_broken_picture_is_read_or_refused_with_the_librarys_own_error(file_format):
    rng = random.Random(file_format)
    image = Image.fromarray(GREY).convert("P" if file_format in ("BLP", "GIF") else "RGB")
    try:
        good = saved(image, file_format)
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write the format")
    assert read_image(good).ndim == 2
    refused = 0
    for number in range(60):
        data = bytearray(good)
        for _ in range(rng.choice([1, 2, 5])):  # half of them in the header
            data[rng.randrange(min(len(data), 40) if number % 2 else len(data))] = rng.randrange(256)
        try:
            assert read_image(bytes(data)).dtype == np.uint8
        except mc.FileError as error:
            refused += 1
            assert len(str(error)) < 300 and str(error).isprintable()
    with pytest.raises(mc.FileError):
        read_image(good[: len(good) // 2])
    assert refused


def gif_header(width, height):
    return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + bytes(3)


HUGE = {
    "GIF": gif_header(65535, 65535) + b"," + bytes(4) + b"\xff\xff\xff\xff\0" + b"\x08\x01\0\0;",
    "PPM": b"P5 60000 60000 255\n" + bytes(100),
    "BMP": saved(GREY, "BMP")[:18] + (60000).to_bytes(4, "little") * 2 + saved(GREY, "BMP")[26:],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_a_picture_of_billions_of_pixels_is_refused_before_it_is_decoded(data):
    with pytest.raises(mc.FileError):
        read_image(data)


DDS = saved(Image.fromarray(GREY).convert("RGB"), "DDS")
UNREADABLE = {
    "empty": b"",
    "a text": b"hello",
    "a postscript program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "an unknown encoding of BLP": b"BLP2" + struct.pack("<L4B2L", 1, 9, 9, 9, 9, 4, 4) + bytes(1172),
    "an unknown encoding of DDS": DDS[:80] + b"\4\0\0\0QQQQ" + bytes(40),
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_pillow_raises_reaches_the_user_as_the_librarys_own_error(tmp_path, data):
    path = tmp_path / ("x" * 200 + "\n.png")
    path.write_bytes(data)
    with pytest.raises(mc.FileError, match="cannot be read") as caught:
        mc.explain(mc.networks.logistic_regression(), path)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.usefixtures("in_time")
def test_a_pipe_or_a_device_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", tmp_path, tmp_path / "nothing.png"):
        with pytest.raises(mc.FileError, match="cannot read"):
            read_image(path)
    with pytest.raises(mc.InputError):
        read_image(3)
