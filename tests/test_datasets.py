"""Synthetic letters and notMNIST: which files are read, which are refused, and which are skipped by name."""

import contextlib
import gzip
import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import minicnn as mc
from minicnn.datasets import LETTERS, download, load_letters, load_notmnist, read_notmnist, stratified_split
from minicnn.datasets import cache as cache_module
from minicnn.datasets.archives import Skipped
from minicnn.datasets.cache import cached
from minicnn.datasets.png import Decoder, decode_plain
from minicnn.storage.files import cache_folder


def png(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def pixels(data):
    return np.array(Image.open(io.BytesIO(data)))


def letter_files(each=6, seed=0):
    """{"A/0.png": bytes, ...}: random images, the last of each letter a copy of the first."""
    rng = np.random.default_rng(seed)
    files = {}
    for letter in LETTERS:
        for number in range(each - 1):
            files[f"{letter}/font{number}.png"] = png(rng.integers(0, 256, (28, 28), dtype=np.uint8))
        files[f"{letter}/font{each - 1}.png"] = files[f"{letter}/font0.png"]
    return files


def make_tar(path, files, root="notMNIST_small", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{root}/{name}" if root else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path, files, root="notMNIST_small"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{root}/{name}", data)
    return path


def make_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_idx(folder, images, labels, prefix="", compressed=False):
    folder.mkdir(exist_ok=True)
    suffix, encode = (".gz", gzip.compress) if compressed else ("", bytes)
    path = folder / f"{prefix}images-idx3-ubyte{suffix}"
    path.write_bytes(encode(idx(images)))
    (folder / f"{prefix}labels-idx1-ubyte{suffix}").write_bytes(encode(idx(labels.astype(np.uint8))))
    return path


@pytest.fixture
def in_time():
    """What waits for ever ends with an error."""

    def stop(*_):
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def as_set(data):
    return {(label, image.tobytes()) for image, label in zip(data.images, data.labels.tolist(), strict=True)}


@pytest.fixture
def files():
    return letter_files()


# Synthetic letters


def test_letters_are_reproducible_balanced_and_like_notmnist():
    (x, y), (x_test, y_test) = load_letters(train=200, test=50, seed=3, cache=False)
    assert x.shape == (200, 28, 28) and x.dtype == np.uint8 and y.dtype == np.int64
    assert np.bincount(y).tolist() == [20] * 10 and np.bincount(y_test).tolist() == [5] * 10
    assert y[:20].tolist() != sorted(y[:20])
    (again, _), _ = load_letters(train=200, test=50, seed=3, cache=False)
    np.testing.assert_array_equal(x, again)
    (other, _), _ = load_letters(train=200, test=50, seed=4, cache=False)
    assert (x != other).any()
    assert (x.max(axis=(1, 2)) > 100).mean() > 0.95  # light on dark, a few with low contrast,
    rows, columns = x.any(axis=2), x.any(axis=1)  # from edge to edge, except where pieces are missing
    assert (rows[:, [0, -1]].all(axis=1) | columns[:, [0, -1]].all(axis=1)).mean() > 0.9
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}


def test_letters_are_harder_for_a_linear_model_than_for_lenet5():
    """With the same letters, optimizer and epochs; measured accuracies: 52 % and 72 %."""
    (x, y), (x_test, y_test) = load_letters(train=1000, test=400, cache=False)
    accuracies = []
    for make in (mc.networks.logistic_regression, mc.networks.lenet5):
        model = make()
        model.fit(x[:, None], y, epochs=4, batch_size=16, optimizer=mc.Adam(0.003), verbose=False)
        accuracies.append(model.evaluate(x_test[:, None], y_test)[1])
    linear, lenet5 = accuracies
    assert 0.3 < linear < lenet5 - 0.1


def test_letters_come_from_the_cache_the_second_time(tmp_path, monkeypatch):
    first = load_letters(train=500, test=20)
    monkeypatch.setattr(mc.datasets.letters, "_draw", None)
    second = load_letters(train=500, test=20)
    np.testing.assert_array_equal(first[0][0], second[0][0])
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_letters_from_the_users_own_fonts(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    source = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "font.ttf").write_bytes(source.read_bytes())
    (tmp_path / "mine" / "broken.ttf").write_bytes(b"not a font")
    with pytest.warns(UserWarning, match=r"broken\.ttf"):
        load_letters(train=20, test=10, fonts=tmp_path / "mine", cache=False)
    with pytest.raises(mc.FileError, match="nowhere"):
        load_letters(train=20, test=10, fonts=tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"train": 0}, {"test": 2.5}, {"seed": -1}])
def test_invalid_numbers_are_refused(options):
    with pytest.raises(mc.InputError):
        load_letters(**options)


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": "0"}, {"test_fraction": 1.5}, {"test_fraction": "a"}, {"group_by": "name"}]
)
def test_invalid_arguments_are_refused_before_a_file_is_read(options):
    with pytest.raises(mc.InputError, match=next(iter(options))):
        load_notmnist("nowhere", **options)
    with pytest.raises(mc.InputError, match="small"):
        load_notmnist(["small"])


# notMNIST in every file format


def test_every_file_format_contains_the_same_images(tmp_path, files):
    expected = {
        (LETTERS.index(name[0]), np.array(Image.open(io.BytesIO(data))).tobytes()) for name, data in files.items()
    }
    data = read_notmnist(make_folder(tmp_path / "folder", files))
    paths = [
        make_tar(tmp_path / "a.tar.gz", files),
        make_tar(tmp_path / "a.tar", files, mode="w"),
        make_tar(tmp_path / "bare.tar.gz", files, root=""),
        make_zip(tmp_path / "a.zip", files),
        make_folder(tmp_path / "outer" / "notMNIST_small", files).parent,
        make_idx(tmp_path / "idx", data.images, data.labels),
        make_idx(tmp_path / "compressed", data.images, data.labels, compressed=True).parent,
    ]
    assert as_set(data) == expected
    for path in paths:
        found = read_notmnist(path)
        assert as_set(found) == expected and len(found.images) == len(files), path
        assert found.skipped == []


def test_copies_stay_on_the_same_side_of_the_split(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", letter_files(each=12))
    for seed in range(3):
        (x, _), (x_test, y_test) = load_notmnist(path, test_fraction=0.3, seed=seed)
        assert len(x) + len(x_test) == 120
        assert set(np.bincount(y_test, minlength=10)) <= {2, 3, 4}
        assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}


def test_letters_of_a_font_stay_on_the_same_side_if_grouped_by_fonts(tmp_path):
    files = {name: data for name, data in letter_files(each=12).items() if "font11" not in name}
    path = make_tar(tmp_path / "a.tar.gz", files)
    (x, _), (x_test, _) = load_notmnist(path, test_fraction=0.3, group_by="fonts")
    font_of = {pixels(data).tobytes(): name.split("/")[1] for name, data in files.items()}
    sides = [{font_of[image.tobytes()] for image in side} for side in (x, x_test)]
    assert (len(sides[0]), len(sides[1])) == (8, 3) and not sides[0] & sides[1]


def test_a_training_and_a_test_pair_of_idx_are_the_two_sets(tmp_path, rng):
    images, labels = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30) % 10
    make_idx(tmp_path / "idx", images[:20], labels[:20], "train-", compressed=True)
    make_idx(tmp_path / "idx", images[20:], labels[20:], "t10k-", compressed=True)
    (x, y), (x_test, y_test) = load_notmnist(tmp_path / "idx")
    np.testing.assert_array_equal(x, images[:20])
    np.testing.assert_array_equal(x_test, images[20:])
    np.testing.assert_array_equal(np.concatenate([y, y_test]), labels)


@pytest.fixture
def pairs(tmp_path, rng):
    """A folder with a training pair and a test pair of IDX files."""
    images, labels = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30) % 10
    make_idx(tmp_path / "idx", images[:20], labels[:20], "train-")
    make_idx(tmp_path / "idx", images[20:], labels[20:], "t10k-")
    return tmp_path / "idx", images


def test_files_that_are_there_packed_and_unpacked_are_read_once(pairs):
    """As torchvision leaves them."""
    folder, images = pairs
    for file in list(folder.iterdir()):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    (folder / "t10k-images-idx3-ubyte").unlink()  # a mixture
    for name in ("._train-images-idx3-ubyte", "._train-labels-idx1-ubyte", ".DS_Store"):
        (folder / name).write_bytes(b"of macOS")
    for cache in (True, False):
        (x, _), (x_test, _) = load_notmnist(folder, cache=cache)
        np.testing.assert_array_equal(x, images[:20])
        np.testing.assert_array_equal(x_test, images[20:])


def test_what_is_beside_idx_files_is_named(pairs):
    folder, _ = pairs
    make_folder(folder, {"A/x.png": png(ZEROS), "more.csv": b"1,2"})
    with pytest.warns(UserWarning, match=r"2 files.*A \(beside.*more\.csv"):
        load_notmnist(folder)


def test_pairs_of_idx_files_that_are_not_a_training_and_a_test_set_are_refused(pairs):
    folder, _ = pairs
    for file in list(folder.iterdir()):
        file.rename(folder / file.name.replace("train", "second"))
    with pytest.raises(mc.FileError, match=r"2 pairs.*t10k-images"):
        load_notmnist(folder)


def test_an_idx_file_that_does_not_fit_in_the_memory_is_refused_with_its_size(pairs, monkeypatch):
    def without_memory(shape, **options):
        raise MemoryError

    folder, _ = pairs
    allocate = np.empty
    monkeypatch.setattr(np, "empty", lambda shape, **o: (without_memory if np.ndim(shape) else allocate)(shape, **o))
    with pytest.raises(mc.FileError, match="GiB"):
        load_notmnist(folder, cache=False)


def test_the_cache_folder_is_asked_for_only_if_it_is_used(tmp_path, files, monkeypatch):
    """A user without a home folder has none."""

    def without_home():
        raise mc.FileError("there is no home")

    for module in (cache_module, download):
        monkeypatch.setattr(module, "cache_folder", without_home)
    path = make_tar(tmp_path / "a.tar.gz", files)
    for load in (lambda **options: load_notmnist(path, **options), lambda **options: load_letters(30, 10, **options)):
        (expected, _), _ = load(cache=False)
        with pytest.warns(UserWarning, match=r"without a cache.*no home"):
            (found, _), _ = load()
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(mc.FileError, match="no home"):
        load_notmnist("small")


def test_the_second_start_reads_the_cache_and_a_changed_file_is_read_again(tmp_path, files):
    path = make_tar(tmp_path / "a.tar.gz", files)
    first = load_notmnist(path)
    info, data = path.stat(), path.read_bytes()
    path.write_bytes(b"x" * len(data))  # other content, same size and time: only the cache has the images
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    second = load_notmnist(path)
    np.testing.assert_array_equal(first[0][0], second[0][0])
    assert isinstance(second[0][0].base, np.memmap)
    os.utime(path, ns=(1, 1))
    with pytest.raises(mc.FileError):
        load_notmnist(path)


def test_a_broken_cache_is_made_again(tmp_path, files):
    path = make_tar(tmp_path / "a.tar.gz", files)
    expected = [[array.copy() for array in pair] for pair in load_notmnist(path)]  # the arrays are mapped to the files
    for damage in (lambda f: f.write_bytes(f.read_bytes()[:-5]), lambda f: f.unlink(), lambda f: f.write_bytes(b"")):
        for file in (tmp_path / "cache").rglob("*"):
            if file.is_file():
                damage(file)
        found = load_notmnist(path)
        np.testing.assert_array_equal(found[0][0], expected[0][0])


def test_every_flipped_bit_of_a_cache_is_detected():
    """Also in the headers: one bit there can change the dtype of the labels, or make the header invalid Python."""
    arrays = {"labels": np.arange(3), "images": np.arange(8, dtype=np.uint8).reshape(2, 2, 2)}
    made = []

    def make():
        made.append(1)
        return arrays

    def check():
        found = cached("flips", "key", make)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)

    check()
    check()
    assert len(made) == 1
    flips = 0
    for file in sorted((cache_folder() / "flips").rglob("*.*")):
        for position in range(file.stat().st_size):
            content = bytearray(file.read_bytes())
            content[position] ^= 1 << position % 8
            file.write_bytes(content)
            check()
            flips += 1
            assert len(made) == 1 + flips, (file, position)
    for content in ("{}", "[]", "null", '{"labels.npy": 1}', "[" * 10**5):
        next((cache_folder() / "flips").rglob("*.json")).write_text(content)
        check()
        flips += 1
        assert len(made) == 1 + flips, content
    entries = list((cache_folder() / "flips").iterdir())
    assert len(entries) == 1 and not entries[0].name.startswith(".")


def test_loading_continues_without_a_cache_that_cannot_be_written(tmp_path, files, monkeypatch):
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="without a cache"):
        (x, _), _ = load_notmnist(make_tar(tmp_path / "a.tar.gz", files))
    assert len(x)


def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", letter_files(each=40))
    code = f"import minicnn as mc; print(int(mc.datasets.load_notmnist({str(path)!r})[0][0].sum()))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(3)]
    outputs = [process.communicate() for process in processes]
    assert len({out for out, _ in outputs}) == 1 and outputs[0][0], outputs
    entries = list((tmp_path / "cache" / "notmnist").iterdir())
    assert len(entries) == 1 and not entries[0].name.startswith(".")


# Errors in single files: the file is counted, named and skipped


def huge_png():
    """A PNG that claims 50,000 x 50,000 pixels: 2.5 GB when it is decoded."""

    def chunk(chunk_type, data):
        return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


ZEROS = np.zeros((28, 28), np.uint8)
SKIPPED_FILES = {
    "empty": ("A/x.png", b""),
    "text": ("A/x.png", b"hello, this is a text and not an image"),
    "truncated": ("A/x.png", png(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))[:-200]),
    "a wrong checksum": ("A/x.png", png(ZEROS)[:-13] + b"?" + png(ZEROS)[-12:]),
    "without an end": ("A/x.png", png(ZEROS)[:-12]),
    "another size": ("A/x.png", png(np.zeros((28, 29), np.uint8))),
    "one pixel": ("A/x.png", png(np.zeros((1, 1), np.uint8))),
    "a decompression bomb": ("A/x.png", huge_png()),
    "another letter": ("K/x.png", png(ZEROS)),
    "not in a folder of a letter": ("x.png", png(ZEROS)),
    "another file type": ("A/readme.txt", b"hello"),
    "a large file": ("A/x.png", png(ZEROS) + bytes(2**21)),
    "a long name": ("A/x.png" + "x" * 2000 + ".png", png(ZEROS)),
    "a path outside the archive": ("../A/x.png", png(ZEROS)),
}


@pytest.mark.parametrize("make_archive", [make_tar, make_zip], ids=["tar", "zip"])
@pytest.mark.parametrize(("name", "data"), SKIPPED_FILES.values(), ids=SKIPPED_FILES)
def test_a_file_that_is_not_a_letter_is_skipped_counted_and_named(tmp_path, files, make_archive, name, data):
    path = make_archive(tmp_path / "archive", files | {name: data})
    with pytest.warns(UserWarning, match=r"1 files.*" + name.rsplit("/", 1)[-1][:50]):
        (x, _), (x_test, _) = load_notmnist(path)
    assert len(x) + len(x_test) == len(files)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive", "cache"]  # nothing was extracted


CLUTTER = [".DS_Store", "Thumbs.db", "._A", "A/._font0.png", "__MACOSX/notMNIST_small/A/._font0.png"]


@pytest.mark.parametrize("make", [make_tar, make_zip, make_folder], ids=["tar", "zip", "folder"])
def test_what_systems_put_beside_the_files_is_ignored(tmp_path, files, make):
    path = make(tmp_path / "data", files | dict.fromkeys(CLUTTER, b"not a PNG"))
    data = read_notmnist(path)
    assert len(data.images) == len(files) and data.skipped == []


def test_what_is_beside_the_letters_of_a_folder_is_named(tmp_path, files):
    others = {f"{letter}/x.png": png(ZEROS) for letter in "KLMNOPQRSTUVWXYZ"}
    folder = make_folder(tmp_path / "folder", files | others | {"AB/x.png": png(ZEROS), "readme.txt": b"hello"})
    with pytest.warns(UserWarning, match=r"18 files .* were skipped: AB/ .*K/ .* and 13 more"):
        (x, _), (x_test, _) = load_notmnist(folder)
    assert len(x) + len(x_test) == len(files)


def test_of_several_data_sets_in_a_folder_none_is_chosen(tmp_path, files):
    for name in ("small", "large"):
        make_folder(tmp_path / "both" / name, files)
    with pytest.raises(mc.FileError, match=r"several.*large.*small"):
        read_notmnist(tmp_path / "both")


def test_a_zip_member_without_a_name_is_skipped(tmp_path, files):
    path = make_zip(tmp_path / "a.zip", files)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"data")
    assert [name for name, _ in read_notmnist(path).skipped] == [""]


@pytest.mark.usefixtures("in_time")
def test_a_pipe_or_a_device_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "labels-idx1-ubyte").symlink_to("/dev/zero")
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "fonts").mkdir()
    os.mkfifo(tmp_path / "fonts" / "font.ttf")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path / "images-idx3-ubyte"):
        with pytest.raises(mc.FileError):
            load_notmnist(path)
    with pytest.warns(UserWarning, match=r"font\.ttf.*pipe"), pytest.raises(mc.FileError, match="no font"):
        load_letters(fonts=tmp_path / "fonts")


def test_messages_quote_a_long_path_in_a_bounded_printable_form(tmp_path):
    folder = tmp_path.joinpath(*["x" * 200 + "\n\x1b[2J"] * 10)
    (folder / "empty").mkdir(parents=True)
    (folder / "a.tar").write_bytes(b"hello" * 1000)
    (folder / "images-idx3-ubyte").write_bytes(b"hello")
    for name in ("missing", "empty", "a.tar", "images-idx3-ubyte", "y" * 42_000, "y\0"):
        for read in (load_notmnist, lambda path: load_letters(fonts=path)):
            with pytest.raises(mc.FileError) as caught:
                read(folder / name)
            assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


# Dark on light, rows and columns exchanged


@pytest.fixture(scope="module")
def few_letters():
    (images, labels), _ = load_letters(train=100, test=10, cache=False)
    return images, labels


@pytest.mark.parametrize("file_format", ["idx", "folder"])
def test_images_are_inverted_and_transposed_where_told_and_cached_apart(tmp_path, few_letters, file_format):
    images, labels = few_letters
    if file_format == "idx":
        path = make_idx(tmp_path / "idx", images, labels)
    else:
        path = make_folder(tmp_path / "folder", {f"{LETTERS[k]}/{n}.png": png(images[n]) for n, k in enumerate(labels)})
    (x, _), _ = load_notmnist(path)
    for _ in range(2):  # the second time from the cache
        for switches, change in (
            ({"transpose": True}, lambda images: images.swapaxes(1, 2)),
            ({"invert": True, "transpose": True}, lambda images: 255 - images.swapaxes(1, 2)),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if "invert" in switches else "error")
                changed = load_notmnist(path, group_by=None, **switches)
                plain = load_notmnist(path, group_by=None)
            for (found, found_labels), (expected, expected_labels) in zip(changed, plain, strict=True):
                np.testing.assert_array_equal(found, change(expected))
                np.testing.assert_array_equal(found_labels, expected_labels)
    (again, _), _ = load_notmnist(path)
    np.testing.assert_array_equal(again, x)
    with pytest.raises(mc.InputError, match="invert"):
        load_notmnist(path, invert="yes")


def test_dark_letters_on_a_light_ground_are_noticed(tmp_path, few_letters):
    images, labels = few_letters
    path = make_idx(tmp_path / "idx", 255 - images, labels)
    for load in (load_notmnist, load_notmnist, read_notmnist):  # the second time from the cache
        with pytest.warns(UserWarning, match=r"border.*invert=True"):
            load(path)
    (x, _), (x_test, _) = load_notmnist(path, invert=True)  # without a warning
    assert as_images(x, x_test) == as_images(images)


def as_images(*arrays):
    return sorted(image.tobytes() for array in arrays for image in array)


def test_a_grey_level_is_the_same_in_every_colour_type_of_png(tmp_path, files):
    pixels = np.random.default_rng(0).integers(0, 2, (28, 28), dtype=np.uint8) * 255
    modes = [Image.fromarray(pixels), Image.fromarray(pixels).convert("1"), Image.fromarray(pixels).convert("RGB")]
    for number, image in enumerate([*modes, Image.fromarray(pixels).convert("P")]):
        file = io.BytesIO()
        image.save(file, "PNG")
        files[f"A/mode{number}.png"] = file.getvalue()
    data = read_notmnist(make_tar(tmp_path / "a.tar.gz", files))
    assert sum((image == pixels).all() for image in data.images) == 4


def chunk(chunk_type, data):
    return struct.pack(">I", len(data)) + chunk_type + data + struct.pack(">I", zlib.crc32(chunk_type + data))


def stored_png(rows, filter_types, width=28, level=6):
    """A PNG with these bytes as its stored (filtered) rows."""
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 0, 0, 0, 0)
    lines = b"".join(bytes([filter_type]) + row.tobytes() for filter_type, row in zip(filter_types, rows, strict=True))
    compressed = zlib.compress(lines, level)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def test_every_filter_of_a_png_is_undone_as_by_pillow(rng):
    stored = rng.integers(0, 256, (300, 9, 28), dtype=np.uint8)
    filter_types = rng.integers(0, 5, (300, 9))
    files = [stored_png(rows, types) for rows, types in zip(stored, filter_types, strict=True)]
    plain, images = decode_plain(files, 9, 28)
    assert plain.all() and set(filter_types.ravel()) == set(range(5))
    np.testing.assert_array_equal(images, [pixels(data) for data in files])


def test_a_png_that_is_not_plain_or_not_intact_is_left_to_pillow(rng):
    rows = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    good = stored_png(rows, [0] * 28)
    others = {
        "a comment": png(rows, pnginfo=comment()),
        "colour": png(np.repeat(rows[:, :, None], 3, axis=2)),
        "another size": png(rows[:27]),
        "an unknown filter": stored_png(rows, [0] * 27 + [5]),
        "one row too many": good[:33] + stored_png(np.vstack([rows, rows[:1]]), [0] * 29)[33:],
        "one row too few": good[:33] + stored_png(rows[:27], [0] * 27)[33:],
        "truncated": good[:-1],
        "a wrong checksum": good[:-13] + bytes([good[-13] ^ 1]) + good[-12:],
        "an empty file": b"",
    }
    plain, images = decode_plain([good, *others.values(), good], 28, 28)
    assert plain.tolist() == [True] + [False] * len(others) + [True]
    np.testing.assert_array_equal(images[[0, -1]], [rows, rows])


def test_the_second_process_decodes_the_same_and_decoding_continues_if_it_ends(rng):
    files = [png(rng.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(40)]
    files[5] = b"not a PNG"
    expected = decode_plain(files, 28, 28)
    with contextlib.closing(Decoder(28, 28)) as decoder:
        for batch in range(4):
            decoder.send(files)
            assert (decoder.process is None) == (batch == 0)
            if batch == 2:
                decoder.process.kill()
            for found, correct in zip(decoder.receive(), expected, strict=True):
                np.testing.assert_array_equal(found, correct)


@pytest.mark.parametrize("batch", [1, 7, 60, 1000])
def test_files_decoded_in_batches_stay_in_their_order(batch, tmp_path, files, monkeypatch):
    monkeypatch.setattr(mc.datasets.notmnist, "BATCH", batch)
    unusual = {"A/empty.png": b"", "B/colour.png": png(np.full((28, 28, 3), 7, np.uint8))}
    names = sorted(files | unusual)
    found = read_notmnist(make_tar(tmp_path / "a.tar", {name: (files | unusual)[name] for name in names}, mode="w"))
    assert [name for name, _ in found.skipped] == ["notMNIST_small/A/empty.png"]
    assert found.names == [f"notMNIST_small/{name}" for name in names if name != "A/empty.png"]
    for name, image, label in zip(found.names, found.images, found.labels, strict=True):
        data = Image.open(io.BytesIO((files | unusual)[name.removeprefix("notMNIST_small/")])).convert("L")
        np.testing.assert_array_equal(image, data)
        assert LETTERS[label] == name.split("/")[1]


def comment():
    info = PngInfo()
    info.add_text("Comment", "by hand")
    return info


def test_all_tar_header_formats_contain_the_same_names(tmp_path, files):
    long_names = {f"{letter}/{'x' * 90}.png": data for letter, data in zip(LETTERS, files.values(), strict=False)}
    expected = sorted(f"notMNIST_small/{name}" for name in files | long_names)
    for header_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=header_format) as archive:
            for name, data in (files | long_names).items():
                member = tarfile.TarInfo(f"notMNIST_small/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        found = read_notmnist(tmp_path / "a.tar")
        assert sorted(found.names) == expected and found.skipped == []


UNUSUAL_NAMES = {
    "a tab": "we\tird",
    "a line break": "we\nird",
    "not UTF-8": "we\udcffird",
    "a terminal escape sequence": "we\x1b[2Jird",
    "written from right to left": "we\u202eird",
}


@pytest.mark.parametrize("file_format", ["tar", "folder", "zip"])
@pytest.mark.parametrize("text", UNUSUAL_NAMES.values(), ids=UNUSUAL_NAMES)
def test_unusual_names_are_reported_in_printable_characters(tmp_path, files, file_format, text):
    if file_format == "zip":
        text = text.replace("\udcff", "\xff")  # the names in a zip are Unicode text
    files |= {f"A/{text}.png": png(ZEROS), f"B/{text}.png": b""}
    make = {"tar": make_tar, "folder": make_folder, "zip": make_zip}[file_format]
    path = make(tmp_path / "data", files)
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match=r"1 files of .*B/we.*ird\.png \(empty\)") as caught:
            (x, _), (x_test, _) = load_notmnist(path, group_by="fonts")
        assert str(caught[0].message).isprintable()
        assert len(x) + len(x_test) == len(files) - 1
    with pytest.raises(mc.FileError, match=r"skipped files: .*we.*ird") as caught:
        read_notmnist(make(tmp_path / "other", {f"A/{text}.png": b""}))
    assert str(caught.value).isprintable()


def test_links_and_devices_in_an_archive_are_not_followed(tmp_path, files):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.full((28, 28), 77, np.uint8)))
    path = tmp_path / "a.tar"
    make_tar(path, files, mode="w")
    with tarfile.open(path, "a") as archive:
        for number, typeflag in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]):
            member = tarfile.TarInfo(f"notMNIST_small/A/link{number}.png")
            member.type, member.linkname = typeflag, str(secret)
            archive.addfile(member)
    data = read_notmnist(path)
    assert len(data.images) == len(files) and not (data.images == 77).all(axis=(1, 2)).any()
    assert len(data.skipped) == 4


def test_links_in_a_folder_are_not_followed(tmp_path, files):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.full((28, 28), 77, np.uint8)))
    folder = make_folder(tmp_path / "folder", files)
    (folder / "A" / "link.png").symlink_to(secret)
    os.mkfifo(folder / "A" / "pipe.png")
    data = read_notmnist(folder)
    assert len(data.images) == len(files) and len(data.skipped) == 2


def test_a_file_that_cannot_be_read_is_skipped_by_name(tmp_path, files, monkeypatch):
    """The error is simulated, because the tests may run as root, who can read every file."""
    folder = make_folder(tmp_path / "folder", files)
    read_bytes = pathlib.Path.read_bytes

    def without_permission(path):
        if path.name == "font3.png" and path.parent.name == "C":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", without_permission)
    with pytest.warns(UserWarning, match=r"1 files.*C/font3\.png \(cannot be read: Permission denied\)"):
        (x, _), (x_test, _) = load_notmnist(folder)
    assert len(x) + len(x_test) == len(files) - 1


def test_pngs_with_valid_checksums_and_invalid_content_are_read_or_skipped(rng):
    """The content of the chunks is mutated and the checksums are corrected, so that the content is decoded."""
    rng = random.Random(0)
    images = [png(ZEROS), png(ZEROS, pnginfo=comment()), png(np.zeros((28, 28, 3), np.uint8))]
    images.append(png(ZEROS, icc_profile=bytes(500)))
    skipped = 0
    for number in range(3000):
        data = images[number % len(images)]
        mutated, position = bytearray(data[:8]), 8
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "big")
            chunk_type, content = data[position + 4 : position + 8], bytearray(data[position + 8 : position + 8 + size])
            if content and rng.random() < 0.5:
                content[rng.randrange(size)] = rng.randrange(256)
            mutated += chunk(chunk_type, bytes(content)) * rng.choice([0, 1, 1, 1, 1, 1, 2])
            position += 12 + size
        found = mc.datasets.notmnist._decode_png(bytes(mutated))
        skipped += isinstance(found, Skipped)
        assert isinstance(found, Skipped) or found.shape == (28, 28)
    assert 300 < skipped < 2900


# Decompression bombs: small files that fill the memory if they are read without limits

BOMB_SIZE = 32  # MiB of decompressed data


def zeros(count=BOMB_SIZE):
    """`count` MiB of zeros, compressed with gzip."""
    return gzip.compress(bytes(2**20)) * count


def tar_header(typeflag, size, name="notMNIST_small/A/x.png"):
    member = tarfile.TarInfo(name)
    member.type, member.size = typeflag, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse_header():
    """The header of a sparse file whose list of holes continues in the next block."""
    header = bytearray(tar_header(b"S", 0))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def tar_bomb(*chunks):
    """A function that makes a .tar.gz which begins with these gzip chunks and continues with letters."""

    def make(folder):
        rest = make_tar(folder / "rest.tar", letter_files(), mode="w").read_bytes()
        path = folder / "bomb.tar.gz"
        path.write_bytes(b"".join(chunks) + gzip.compress(rest))
        return path

    return make


def repeated(blocks, count):
    """Some blocks of a tar, repeated `count` times (a multiple of 100) and compressed with gzip."""
    return gzip.compress(blocks * 100, 1) * (count // 100)


def zip_bomb(method, claimed=None):
    def make(folder):
        path = folder / "bomb.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            with archive.open("notMNIST_small/A/x.png", "w") as file:
                for _ in range(BOMB_SIZE):
                    file.write(bytes(2**20))
            for name, data in letter_files().items():
                archive.writestr(f"notMNIST_small/{name}", data)
            if claimed is not None:
                archive.getinfo("notMNIST_small/A/x.png").file_size = claimed
        return path

    return make


def idx_bomb(label_count, labels):
    def make(folder):
        count = BOMB_SIZE * 2**20 // 784
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28)
        (folder / "images-idx3-ubyte.gz").write_bytes(gzip.compress(header) + zeros())
        header = bytes([0, 0, 8, 1]) + struct.pack(">I", label_count or count)
        (folder / "labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels * (label_count or count)))
        return folder / "images-idx3-ubyte.gz"

    return make


RECORDS = "".join(f"{len(str(n)) + 8:02} k{n}=vv\n" for n in range(4000)).encode()
BOMBS = {
    "a name that claims a petabyte": tar_bomb(gzip.compress(tar_header(b"L", 2**50))),
    "a header that claims a petabyte": tar_bomb(gzip.compress(tar_header(b"x", 2**50))),
    "a header that claims a negative size": tar_bomb(gzip.compress(tar_header(b"x", -(2**50)))),
    "a file that claims a petabyte": tar_bomb(gzip.compress(tar_header(b"0", 2**50))),
    "a long name": tar_bomb(gzip.compress(tar_header(b"L", BOMB_SIZE * 2**20)), zeros()),
    "a long header": tar_bomb(gzip.compress(tar_header(b"x", BOMB_SIZE * 2**20)), zeros()),
    "a long header of all files": tar_bomb(gzip.compress(tar_header(b"g", BOMB_SIZE * 2**20)), zeros()),
    "repeated name headers": tar_bomb(repeated(tar_header(b"L", 5) + b"A/x".ljust(512, b"\0"), 100_000)),
    "long names": tar_bomb(repeated(tar_header(b"L", 2**16) + b"x" * 2**16 + tar_header(b"0", 0), 800)),
    "a sparse file": tar_bomb(
        gzip.compress(sparse_header()), repeated(b"00000000001\0" * 42 + b"\1".ljust(8), 150_000)
    ),
    "large files": tar_bomb(repeated(tar_header(b"0", 2**15) + bytes(2**15), 2000)),
    "a large file": tar_bomb(gzip.compress(tar_header(b"0", BOMB_SIZE * 2**20)), zeros()),
    "a zip": zip_bomb(zipfile.ZIP_DEFLATED),
    "a zip that claims a small size": zip_bomb(zipfile.ZIP_DEFLATED, claimed=700),
    "a zip compressed with bzip2": zip_bomb(zipfile.ZIP_BZIP2, claimed=700),
    "a zip compressed with lzma": zip_bomb(zipfile.ZIP_LZMA, claimed=700),
    "images without labels": idx_bomb(10, bytes(1)),
    "images of one letter": idx_bomb(None, bytes(1)),
    "labels without images": idx_bomb(2**31, b""),
}

MEMORY_BOUND = 24  # MiB
LOAD = """
import json, sys, warnings
import minicnn as mc

def memory(field):  # in KiB; getrusage's peak also contains the memory of the parent process
    [line] = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1])

def peak(path):
    open("/proc/self/clear_refs", "w").write("5")  # the peak is forgotten
    before = memory("VmRSS")
    try:
        sets = mc.datasets.load_notmnist(path, group_by=None, cache=False)
    except mc.FileError:
        pass
    return (memory("VmHWM") - before) / 1024

warnings.simplefilter("ignore")
for path in sys.argv[1:]:
    print(json.dumps([path, peak(path)]), flush=True)
"""


def idx_of_zeros(folder):
    """Valid IDX files of 40 MiB: a file with a hole for the images."""
    count = 40 * 2**20 // 784
    (folder / "labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    with open(folder / "images-idx3-ubyte", "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28))
        file.truncate(16 + 784 * count)
    return folder


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """{name of a bomb: the memory in MiB that reading it takes}, measured in one process for all."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = {"a valid archive": make_tar(folder / "a.tar.gz", letter_files())}
    for number, (name, make) in enumerate((BOMBS | {"a large IDX file": idx_of_zeros}).items()):
        (folder / f"{number}").mkdir()
        paths[name] = make(folder / f"{number}")
        assert name == "a large IDX file" or paths[name].stat().st_size < 3 * 2**20
    command = [sys.executable, "-c", LOAD, *map(str, paths.values())]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr[-2000:]
    found = dict(map(json.loads, completed.stdout.splitlines()))
    return {name: found[str(path)] for name, path in paths.items()}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_fill_the_memory(peaks, name):
    assert peaks[name] < MEMORY_BOUND


def test_a_large_idx_file_takes_its_memory_once(peaks):
    assert 30 < peaks["a large IDX file"] < 1.5 * 40


ZEROS_BEHIND = {
    "behind the end of a tar": lambda p: (
        make_folder(p, {"b.tar.gz": make_tar(p / "a.tar.gz", letter_files()).read_bytes() + zeros(8)}) / "b.tar.gz"
    ),
    "in a file of a tar": lambda p: (
        make_folder(p, {"b.tar.gz": gzip.compress(tar_header(b"0", 8 * 2**20)) + zeros(8)}) / "b.tar.gz"
    ),
    "in the files of a zip": lambda p: make_zip(p / "b.zip", {f"{n}": bytes(2**15) for n in range(200)}),
    "in an IDX file": lambda p: make_idx(
        p / "idx", np.zeros((5000, 28, 28), np.uint8), np.arange(5000) % 10, compressed=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", ZEROS_BEHIND.values(), ids=ZEROS_BEHIND)
def test_a_file_that_decompresses_without_an_end_is_refused(tmp_path, make, monkeypatch):
    path = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(mc.datasets.archives, "_MIN_DECOMPRESSED", 2**20)
        with pytest.raises(mc.FileError, match="far more"):
            load_notmnist(path)


# Errors in the data set: an exception


def with_changed_header(array, **changes):
    """The bytes of an IDX file with changed header fields: `_4=21` writes 21 at position 4."""
    data = bytearray(idx(array))
    for position, value in changes.items():
        data[int(position[1:]) : int(position[1:]) + 4] = struct.pack(">I", value)
    return bytes(data)


IMAGES, LABELS = np.zeros((20, 28, 28), np.uint8), (np.arange(20) % 10).astype(np.uint8)
BAD_IDX = {
    "a wrong magic number": (b"PNG!" + idx(IMAGES)[4:], idx(LABELS)),
    "floats": (bytes([0, 0, 13, 3]) + idx(IMAGES)[4:], idx(LABELS)),
    "labels instead of images": (idx(LABELS), idx(LABELS)),
    "a count one too large": (with_changed_header(IMAGES, _4=21), idx(LABELS)),
    "a count far too large": (with_changed_header(IMAGES, _4=2**31), idx(LABELS)),
    "a count one too small": (with_changed_header(IMAGES, _4=19), idx(LABELS)),
    "another size": (idx(np.zeros((20, 32, 32), np.uint8)), idx(LABELS)),
    "too few labels": (idx(IMAGES), idx(LABELS[:-1])),
    "a label of 10": (idx(IMAGES), idx(LABELS + 1)),
    "truncated in the header": (idx(IMAGES)[:10], idx(LABELS)),
    "truncated": (idx(IMAGES)[:-1], idx(LABELS)),
    "a byte after the end": (idx(IMAGES) + b"0", idx(LABELS)),
    "empty files": (b"", b""),
    "no image": (idx(IMAGES[:0]), idx(LABELS[:0])),
    "a letter missing": (idx(IMAGES), idx(LABELS % 9)),
    "broken gzip": (gzip.compress(idx(IMAGES))[:-20], idx(LABELS)),
    "a gzip bomb": (gzip.compress(idx(IMAGES) + bytes(10**8)), idx(LABELS)),
}


@pytest.mark.parametrize(("images", "labels"), BAD_IDX.values(), ids=BAD_IDX)
def test_inconsistent_idx_files_are_refused(tmp_path, images, labels):
    (tmp_path / "images-idx3-ubyte").write_bytes(images)
    (tmp_path / "labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(mc.FileError, match="idx"):
        load_notmnist(tmp_path / "images-idx3-ubyte")


def without(letter):
    return {name: data for name, data in letter_files().items() if name[0] != letter}


BAD_SETS = {
    "a missing file": lambda p: p / "missing.tar.gz",
    "an empty file": lambda p: make_folder(p, {"a.tar.gz": b""}) / "a.tar.gz",
    "text": lambda p: make_folder(p, {"a.tar.gz": b"hello" * 100}) / "a.tar.gz",
    "an empty tar": lambda p: make_tar(p / "a.tar.gz", {}),
    "an empty zip": lambda p: make_zip(p / "a.zip", {}),
    "an empty folder": lambda p: p,
    "another folder": lambda p: make_folder(p, {"photos/cat.png": png(ZEROS)}),
    "an archive of something else": lambda p: make_tar(p / "a.tar.gz", {"x/cat.png": png(ZEROS)}),
    "a path with a null character": lambda p: f"{p}/a\0b",
    "a path too long": lambda p: p / ("a" * 300),
    "a truncated tar": lambda p: (
        make_folder(p, {"b.tar": make_tar(p / "a", letter_files(), mode="w").read_bytes()[:10240]}) / "b.tar"
    ),
    "a tar without its end marker": lambda p: (
        make_folder(p, {"b.tar": make_tar(p / "a", letter_files(), mode="w").read_bytes().rstrip(b"\0")}) / "b.tar"
    ),
    "a broken header in the middle": lambda p: (
        make_folder(
            p, {"b.tar": make_tar(p / "a", letter_files(), mode="w").read_bytes().replace(b"C/font3", b"C/font8")}
        )
        / "b.tar"
    ),
    "a gzip with a wrong checksum": lambda p: (
        make_folder(p, {"b.tar.gz": make_tar(p / "a", letter_files()).read_bytes()[:-8] + bytes(8)}) / "b.tar.gz"
    ),
    "a letter missing": lambda p: make_tar(p / "a.tar.gz", without("G")),
    "an empty letter": lambda p: make_tar(p / "a.tar.gz", without("G") | {"G/x.png": b""}),
    "a truncated archive": lambda p: (
        make_folder(p, {"b.tar.gz": make_tar(p / "a", letter_files()).read_bytes()[:-900]}) / "b.tar.gz"
    ),
    "images without labels": lambda p: make_folder(p, {"images-idx3-ubyte": idx(IMAGES)}),
    "a folder of empty letters": lambda p: make_folder(p, {f"{letter}/x.txt": b"" for letter in LETTERS}),
}


@pytest.mark.filterwarnings("ignore:.*were skipped")
@pytest.mark.parametrize("make", BAD_SETS.values(), ids=BAD_SETS)
def test_a_path_that_is_not_a_data_set_is_refused_with_its_name(tmp_path, make):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(mc.FileError) as caught:
        load_notmnist(make(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("file_format", ["tar", "tar.gz", "zip", "idx"])
def test_mutated_files_are_read_or_refused_with_the_librarys_own_error(tmp_path, file_format):
    rng = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    files = {f"{LETTERS[n % 10]}/{n}.png": stored_png(rows, [n // 10] * 28) for n, rows in enumerate(pixels)}
    folder = make_folder(tmp_path / "folder", files)
    if file_format == "idx":
        data = read_notmnist(folder)
        path = make_idx(tmp_path / "idx", data.images, data.labels, compressed=True)
    else:
        path = (
            make_zip(tmp_path / "a.zip", files)
            if file_format == "zip"
            else make_tar(tmp_path / "a.tar", files, mode="w" if file_format == "tar" else "w:gz")
        )
    good = path.read_bytes()
    refused = 0
    for _ in range(250):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            position = rng.randrange(len(data))
            if rng.random() < 0.6:
                data[position] = rng.randrange(256)
            elif rng.random() < 0.5:
                del data[position : position + rng.choice([1, 50, 5000])]
            else:
                data[position:position] = rng.randbytes(rng.choice([1, 50]))
            if not data:
                break
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                for images, labels in load_notmnist(path, test_fraction=0.5):
                    assert images.shape[1:] == (28, 28) and images.dtype == np.uint8 and labels.dtype == np.int64
                    assert labels.min() >= 0 and labels.max() < 10 and len(images) == len(labels)
            except mc.MinicnnError:
                refused += 1
        assert all(str(warning.message).isprintable() for warning in caught)
    assert refused > 20


# Real images


def test_the_real_images_in_the_archive_and_in_idx_are_the_same(real_data):
    archive = read_notmnist(real_data / "notMNIST_sample.tar.gz")
    files = read_notmnist(real_data / "notmnist-images-idx3-ubyte.gz")
    assert len(archive.images) == len(files.images) == 15_629
    assert as_set(archive) == as_set(files)
    assert len(archive.skipped) == 2  # the two empty files of the original


def test_a_split_of_the_real_images_keeps_copies_on_the_same_side(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (x, y), (x_test, y_test) = load_notmnist(real_data / "notmnist-images-idx3-ubyte.gz")
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}
    assert np.allclose(np.bincount(y_test) / np.bincount(y), 1 / 9, atol=0.01)


# Splits and preprocessing


def test_a_stratified_split_holds_out_the_same_fraction_of_every_class(rng):
    labels = np.repeat([0, 1, 2], [10, 30, 60])
    train, held_out = stratified_split(labels, 0.2, rng)
    assert np.bincount(labels[held_out]).tolist() == [2, 6, 12]
    assert sorted([*train, *held_out]) == list(range(100))
    assert held_out.tolist() != sorted(held_out)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8).filter(lambda counts: max(counts) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
@example(counts=[95, 5], fraction=0.1, seed=0)
@example(counts=[5] * 10, fraction=0.1, seed=0)
@example(counts=[14] * 100, fraction=0.1, seed=0)
def test_every_class_of_two_or_more_is_on_both_sides_of_a_split(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    train, held_out = stratified_split(labels, fraction, np.random.default_rng(seed))
    again = stratified_split(labels, fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([train, held_out]))
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    kept, held = (np.bincount(labels[side], minlength=len(counts)) for side in (train, held_out))
    counts = np.array(counts)
    assert (held[counts == 1] == 0).all() and (np.minimum(kept, held)[counts > 1] >= 1).all()
    exact = fraction * counts
    assert ((abs(held - exact) < 1 + 1e-6) | (held == 1) | (kept == 1)).all()
    if (exact >= 1).all() and (exact <= counts - 1).all():  # no class needs more or less than its fraction
        assert abs(len(held_out) - fraction * len(labels)) <= 0.5 + 1e-6


@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=2, max_size=30),
    mixed=st.booleans(),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
@example(groups=[(0, 5), (0, 5)], mixed=False, fraction=0.1, seed=0)  # both are larger than a tenth
def test_a_split_keeps_groups_together_and_a_class_of_two_groups_on_both_sides(groups, mixed, fraction, seed):
    group = np.repeat(np.arange(len(groups)), [size for _, size in groups])
    labels = np.repeat([label for label, _ in groups], [size for _, size in groups])
    if mixed:
        labels = (labels + np.arange(len(labels)) % 2) % 4
    n_groups = {label: len(set(group[labels == label])) for label in labels.tolist()}
    try:
        train, held_out = stratified_split(labels, fraction, np.random.default_rng(seed), group)
    except mc.InputError:
        assert mixed or max(n_groups.values()) == 1
        return
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert not set(group[train]) & set(group[held_out])
    assert set(labels[held_out]) <= set(labels[train])
    if not mixed:
        assert set(labels[held_out]) == {label for label, count in n_groups.items() if count > 1}


def test_a_split_is_filled_beside_a_group_that_is_too_large():
    labels, groups = np.zeros(100, int), np.r_[np.zeros(50, int), np.arange(1, 51)]
    for seed in range(5):  # wherever the large group comes in the random order
        _, held_out = stratified_split(labels, 0.2, np.random.default_rng(seed), groups)
        assert len(held_out) == 20


def test_a_split_without_two_images_of_a_class_is_refused_with_the_cause(rng):
    with pytest.raises(mc.InputError, match="no class has two"):
        stratified_split(np.arange(50), 0.1, rng)
    with pytest.raises(mc.InputError, match="different groups"):
        stratified_split(np.zeros(50, int), 0.1, rng, groups=np.zeros(50, int))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_must_be_between_0_and_1(fraction, rng):
    with pytest.raises(mc.InputError):
        stratified_split(np.zeros(10, int), fraction, rng)


def test_normalize_divides_by_the_norm(rng):
    x = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    x[0, :, 3] = 0
    y = mc.datasets.normalize(x)
    assert y.dtype == np.float32
    norms = np.sqrt((y.astype("float64") ** 2).sum(axis=1))
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-6)
    assert (y[0, :, 3] == 0).all()
    np.testing.assert_allclose(mc.datasets.normalize(np.array([[3.0, 4.0]]), axis=1), [[0.6, 0.8]])


def test_normalize_along_an_axis_of_length_1_is_refused(rng):
    x = rng.random((5, 1, 28, 28))
    with pytest.raises(mc.InputError, match="axis=2"):
        mc.datasets.normalize(x)
    np.testing.assert_array_equal(mc.datasets.normalize(x, axis=2)[:, 0], mc.datasets.normalize(x[:, 0]))


@pytest.mark.parametrize("axis", [9, -3, "rows", 0.5, None, (0, 1)])
def test_normalize_needs_an_existing_axis_and_numbers(axis):
    with pytest.raises(mc.InputError, match="axes"):
        mc.datasets.normalize(np.ones((2, 2)), axis=axis)
    with pytest.raises(mc.InputError, match="numbers"):
        mc.datasets.normalize([["a", "b"]], axis=1)
