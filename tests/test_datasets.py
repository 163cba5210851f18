"""Letters and notMNIST: what is read, what is refused, and what is left out by name."""

import contextlib
import gzip
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import minicnn as mc
from minicnn.datasets import LETTERS, load_letters, load_notmnist, read_notmnist, stratified_split
from minicnn.datasets.png import Decoder, decode_plain


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


def make_idx(folder, images, labels, prefix="", packed=False):
    folder.mkdir(exist_ok=True)
    end, pack = (".gz", gzip.compress) if packed else ("", bytes)
    path = folder / f"{prefix}images-idx3-ubyte{end}"
    path.write_bytes(pack(idx(images)))
    (folder / f"{prefix}labels-idx1-ubyte{end}").write_bytes(pack(idx(labels.astype(np.uint8))))
    return path


def as_set(data):
    return {(label, image.tobytes()) for image, label in zip(data.images, data.labels.tolist(), strict=True)}


@pytest.fixture
def files():
    return letter_files()


# Letters


def test_letters_are_seeded_balanced_and_of_notmnists_form():
    (x, y), (x_test, y_test) = load_letters(train=200, test=50, seed=3, cache=False)
    assert x.shape == (200, 28, 28) and x.dtype == np.uint8 and y.dtype == np.int64
    assert np.bincount(y).tolist() == [20] * 10 and np.bincount(y_test).tolist() == [5] * 10
    assert y[:20].tolist() != sorted(y[:20])
    (again, _), _ = load_letters(train=200, test=50, seed=3, cache=False)
    np.testing.assert_array_equal(x, again)
    (other, _), _ = load_letters(train=200, test=50, seed=4, cache=False)
    assert (x != other).any()
    assert (x.max(axis=(1, 2)) > 100).mean() > 0.95  # light on dark, a few of them faint,
    rows, columns = x.any(axis=2), x.any(axis=1)  # and drawn from edge to edge, but where pieces are missing
    assert (rows[:, [0, -1]].all(axis=1) | columns[:, [0, -1]].all(axis=1)).mean() > 0.9
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}


def test_letters_are_harder_for_a_linear_model_than_for_lenet5():
    """The same letters, optimizer and epochs; measured: 64 % and 78 %."""
    (x, y), (x_test, y_test) = load_letters(train=3000, test=600, cache=False)
    found = []
    for make in (mc.networks.logistic_regression, mc.networks.lenet5):
        model = make()
        model.fit(x[:, None], y, 4, 32, mc.Adam(0.002), verbose=False)
        found.append(model.evaluate(x_test[:, None], y_test)[1])
    linear, lenet5 = found
    assert 0.3 < linear < lenet5 - 0.1


def test_letters_come_from_the_cache_the_second_time(tmp_path):
    first = load_letters(train=500, test=20)
    started = time.perf_counter()
    second = load_letters(train=500, test=20)
    assert time.perf_counter() - started < 1
    np.testing.assert_array_equal(first[0][0], second[0][0])
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_letters_from_fonts_of_ones_own(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    source = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "font.ttf").write_bytes(source.read_bytes())
    (tmp_path / "mine" / "broken.ttf").write_bytes(b"no font")
    with pytest.warns(UserWarning, match=r"broken\.ttf"):
        load_letters(train=20, test=10, fonts=tmp_path / "mine", cache=False)
    with pytest.raises(mc.FileError, match="nowhere"):
        load_letters(train=20, test=10, fonts=tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"train": 0}, {"test": 2.5}, {"seed": -1}])
def test_numbers_that_cannot_be_are_refused(options):
    with pytest.raises(mc.InputError):
        load_letters(**options)


# notMNIST in every wrapping


def test_every_wrapping_gives_the_same_images(tmp_path, files):
    expected = {
        (LETTERS.index(name[0]), np.array(Image.open(io.BytesIO(data))).tobytes()) for name, data in files.items()
    }
    data = read_notmnist(make_folder(tmp_path / "folder", files))
    wrappings = [
        make_tar(tmp_path / "a.tar.gz", files),
        make_tar(tmp_path / "a.tar", files, mode="w"),
        make_tar(tmp_path / "bare.tar.gz", files, root=""),
        make_zip(tmp_path / "a.zip", files),
        make_folder(tmp_path / "outer" / "notMNIST_small", files).parent,
        make_idx(tmp_path / "idx", data.images, data.labels),
        make_idx(tmp_path / "packed", data.images, data.labels, packed=True).parent,
    ]
    assert as_set(data) == expected
    for path in wrappings:
        found = read_notmnist(path)
        assert as_set(found) == expected and len(found.images) == len(files), path
        assert found.skipped == []


def test_copies_stay_on_one_side_of_the_split(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", letter_files(each=12))
    for seed in range(3):
        (x, _), (x_test, y_test) = load_notmnist(path, test_fraction=0.3, seed=seed)
        assert len(x) + len(x_test) == 120
        assert set(np.bincount(y_test, minlength=10)) <= {2, 3, 4}
        assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}


def test_letters_of_a_font_stay_together_if_wanted(tmp_path):
    files = {name: data for name, data in letter_files(each=12).items() if "font11" not in name}
    path = make_tar(tmp_path / "a.tar.gz", files)
    (x, _), (x_test, _) = load_notmnist(path, test_fraction=0.3, group_by="fonts")
    where = {pixels(data).tobytes(): name.split("/")[1] for name, data in files.items()}
    sides = [{where[image.tobytes()] for image in side} for side in (x, x_test)]
    assert (len(sides[0]), len(sides[1])) == (8, 3) and not sides[0] & sides[1]


def test_a_training_and_a_test_pair_of_idx_are_the_two_sets(tmp_path, rng):
    images, labels = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30) % 10
    make_idx(tmp_path / "idx", images[:20], labels[:20], "train-", packed=True)
    make_idx(tmp_path / "idx", images[20:], labels[20:], "t10k-", packed=True)
    (x, y), (x_test, y_test) = load_notmnist(tmp_path / "idx")
    np.testing.assert_array_equal(x, images[:20])
    np.testing.assert_array_equal(x_test, images[20:])
    np.testing.assert_array_equal(np.concatenate([y, y_test]), labels)


def test_the_second_start_reads_the_cache_and_a_changed_file_is_read_again(tmp_path, files):
    path = make_tar(tmp_path / "a.tar.gz", files)
    first = load_notmnist(path)
    data = path.read_bytes()
    path.write_bytes(b"x" * len(data))  # the content gone, size and time kept: only the cache can answer
    os.utime(path, ns=(1, 1))
    with pytest.raises(mc.FileError):
        load_notmnist(path)
    path.write_bytes(data)
    second = load_notmnist(path)
    np.testing.assert_array_equal(first[0][0], second[0][0])


def test_a_broken_cache_is_made_again(tmp_path, files):
    path = make_tar(tmp_path / "a.tar.gz", files)
    expected = [[part.copy() for part in pair] for pair in load_notmnist(path)]  # they lie in the file itself
    for damage in (lambda f: f.write_bytes(f.read_bytes()[:-5]), lambda f: f.unlink(), lambda f: f.write_bytes(b"")):
        for file in (tmp_path / "cache").rglob("*"):
            if file.is_file():
                damage(file)
        found = load_notmnist(path)
        np.testing.assert_array_equal(found[0][0], expected[0][0])
    flipped = next((tmp_path / "cache").rglob("train_images.npy"))
    content = bytearray(flipped.read_bytes())
    content[-10] ^= 255
    flipped.write_bytes(content)
    np.testing.assert_array_equal(load_notmnist(path)[0][0], expected[0][0])


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path, files, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="without a cache"):
        (x, _), _ = load_notmnist(make_tar(tmp_path / "a.tar.gz", files))
    assert len(x)


def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", letter_files(each=40))
    code = f"import minicnn as mc; print(int(mc.datasets.load_notmnist({str(path)!r})[0][0].sum()))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for _ in range(4)]
    shown = [process.communicate() for process in processes]
    assert len({out for out, _ in shown}) == 1 and shown[0][0], shown
    kept = list((tmp_path / "cache" / "notmnist").iterdir())
    assert len(kept) == 1 and not kept[0].name.startswith(".")


# What is wrong with single files: counted, named, left out


def huge_png():
    """A PNG that claims 50,000 x 50,000 pixels: 2.5 GB if it were opened."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


ZEROS = np.zeros((28, 28), np.uint8)
LEFT_OUT = {
    "empty": ("A/x.png", b""),
    "text": ("A/x.png", b"hello, I am no picture at all, sorry"),
    "cut": ("A/x.png", png(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))[:-200]),
    "another size": ("A/x.png", png(np.zeros((28, 29), np.uint8))),
    "one pixel": ("A/x.png", png(np.zeros((1, 1), np.uint8))),
    "a bomb": ("A/x.png", huge_png()),
    "another letter": ("K/x.png", png(ZEROS)),
    "no letter": ("x.png", png(ZEROS)),
    "another kind": ("A/readme.txt", b"hello"),
    "a large file": ("A/x.png", png(ZEROS) + bytes(2**21)),
    "a way out": ("../A/x.png", png(ZEROS)),
}


@pytest.mark.parametrize("wrapping", [make_tar, make_zip], ids=["tar", "zip"])
@pytest.mark.parametrize(("name", "data"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_no_letter_is_left_out_counted_and_named(tmp_path, files, wrapping, name, data):
    path = wrapping(tmp_path / "archive", files | {name: data})
    with pytest.warns(UserWarning, match=r"1 files.*" + name.rsplit("/", 1)[-1]):
        (x, _), (x_test, _) = load_notmnist(path)
    assert len(x) + len(x_test) == len(files)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["archive", "cache"]  # nothing was unpacked


def test_a_grey_level_is_the_same_in_every_kind_of_png(tmp_path, files):
    pixels = np.random.default_rng(0).integers(0, 2, (28, 28), dtype=np.uint8) * 255
    kinds = [Image.fromarray(pixels), Image.fromarray(pixels).convert("1"), Image.fromarray(pixels).convert("RGB")]
    for number, image in enumerate([*kinds, Image.fromarray(pixels).convert("P")]):
        file = io.BytesIO()
        image.save(file, "PNG")
        files[f"A/kind{number}.png"] = file.getvalue()
    data = read_notmnist(make_tar(tmp_path / "a.tar.gz", files))
    assert sum((image == pixels).all() for image in data.images) == 4


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def stored_png(rows, kinds, width=28, level=6):
    """A PNG whose stored rows are these bytes, whatever they decode to."""
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 0, 0, 0, 0)
    lines = b"".join(bytes([kind]) + row.tobytes() for kind, row in zip(kinds, rows, strict=True))
    packed = zlib.compress(lines, level)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_every_filter_of_a_png_is_undone_as_pillow_undoes_it(rng):
    stored = rng.integers(0, 256, (300, 9, 28), dtype=np.uint8)
    kinds = rng.integers(0, 5, (300, 9))
    files = [stored_png(rows, kind) for rows, kind in zip(stored, kinds, strict=True)]
    plain, images = decode_plain(files, 9, 28)
    assert plain.all() and set(kinds.ravel()) == set(range(5))
    np.testing.assert_array_equal(images, [pixels(data) for data in files])


def test_a_png_that_is_not_plain_or_not_whole_is_left_to_pillow(rng):
    rows = rng.integers(0, 256, (28, 28), dtype=np.uint8)
    good = stored_png(rows, [0] * 28)
    others = {
        "a comment": png(rows, pnginfo=comment()),
        "colour": png(np.repeat(rows[:, :, None], 3, axis=2)),
        "another size": png(rows[:27]),
        "an unknown filter": stored_png(rows, [0] * 27 + [5]),
        "a row too many": good[:33] + stored_png(np.vstack([rows, rows[:1]]), [0] * 29)[33:],
        "a row too few": good[:33] + stored_png(rows[:27], [0] * 27)[33:],
        "cut": good[:-1],
        "a wrong checksum": good[:-13] + bytes([good[-13] ^ 1]) + good[-12:],
        "nothing": b"",
    }
    plain, images = decode_plain([good, *others.values(), good], 28, 28)
    assert plain.tolist() == [True] + [False] * len(others) + [True]
    np.testing.assert_array_equal(images[[0, -1]], [rows, rows])


def test_another_process_decodes_the_same_and_is_done_without_when_it_dies(rng):
    files = [png(rng.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(40)]
    files[5] = b"no PNG"
    expected = decode_plain(files, 28, 28)
    with contextlib.closing(Decoder(28, 28)) as decoder:
        for turn in range(4):
            decoder.send(files)
            assert (decoder.process is None) == (turn == 0)
            if turn == 2:
                decoder.process.kill()
            for found, right in zip(decoder.receive(), expected, strict=True):
                np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("batch", [1, 7, 60, 1000])
def test_files_decoded_in_batches_are_the_files_in_their_order(batch, tmp_path, files, monkeypatch):
    monkeypatch.setattr(mc.datasets.notmnist, "BATCH", batch)
    odd = {"A/empty.png": b"", "B/colour.png": png(np.full((28, 28, 3), 7, np.uint8))}
    names = sorted(files | odd)
    found = read_notmnist(make_tar(tmp_path / "a.tar", {name: (files | odd)[name] for name in names}, mode="w"))
    assert [name for name, _ in found.skipped] == ["notMNIST_small/A/empty.png"]
    assert found.names == [f"notMNIST_small/{name}" for name in names if name != "A/empty.png"]
    for name, image, label in zip(found.names, found.images, found.labels, strict=True):
        data = Image.open(io.BytesIO((files | odd)[name.removeprefix("notMNIST_small/")])).convert("L")
        np.testing.assert_array_equal(image, data)
        assert LETTERS[label] == name.split("/")[1]


def comment():
    about = PngInfo()
    about.add_text("Comment", "by hand")
    return about


def test_plain_and_unusual_tar_headers_name_the_same_files(tmp_path, files):
    long = {f"{letter}/{'x' * 90}.png": data for letter, data in zip(LETTERS, files.values(), strict=False)}
    expected = sorted(f"notMNIST_small/{name}" for name in files | long)
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            for name, data in (files | long).items():
                member = tarfile.TarInfo(f"notMNIST_small/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        found = read_notmnist(tmp_path / "a.tar")
        assert sorted(found.names) == expected and found.skipped == []


def test_links_and_devices_in_an_archive_are_not_followed(tmp_path, files):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.full((28, 28), 77, np.uint8)))
    path = tmp_path / "a.tar"
    make_tar(path, files, mode="w")
    with tarfile.open(path, "a") as archive:
        for number, kind in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]):
            member = tarfile.TarInfo(f"notMNIST_small/A/link{number}.png")
            member.type, member.linkname = kind, str(secret)
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


# What is wrong with the whole


def rewritten(array, **changes):
    """IDX bytes with other header fields."""
    data = bytearray(idx(array))
    for place, value in changes.items():
        data[int(place[1:]) : int(place[1:]) + 4] = struct.pack(">I", value)
    return bytes(data)


IMAGES, LABELS = np.zeros((20, 28, 28), np.uint8), (np.arange(20) % 10).astype(np.uint8)
BAD_IDX = {
    "a wrong magic number": (b"PNG!" + idx(IMAGES)[4:], idx(LABELS)),
    "floats": (bytes([0, 0, 13, 3]) + idx(IMAGES)[4:], idx(LABELS)),
    "labels for images": (idx(LABELS), idx(LABELS)),
    "a count that lies": (rewritten(IMAGES, _4=21), idx(LABELS)),
    "a count that lies hugely": (rewritten(IMAGES, _4=2**31), idx(LABELS)),
    "a count that is too small": (rewritten(IMAGES, _4=19), idx(LABELS)),
    "another size": (idx(np.zeros((20, 32, 32), np.uint8)), idx(LABELS)),
    "too few labels": (idx(IMAGES), idx(LABELS[:-1])),
    "a label of 10": (idx(IMAGES), idx(LABELS + 1)),
    "cut in the header": (idx(IMAGES)[:10], idx(LABELS)),
    "cut": (idx(IMAGES)[:-1], idx(LABELS)),
    "more after the end": (idx(IMAGES) + b"0", idx(LABELS)),
    "nothing": (b"", b""),
    "no image": (idx(IMAGES[:0]), idx(LABELS[:0])),
    "broken gzip": (gzip.compress(idx(IMAGES))[:-20], idx(LABELS)),
    "a gzip bomb": (gzip.compress(idx(IMAGES) + bytes(10**8)), idx(LABELS)),
}


@pytest.mark.parametrize(("images", "labels"), BAD_IDX.values(), ids=BAD_IDX)
def test_idx_files_that_lie_are_refused(tmp_path, images, labels):
    (tmp_path / "images-idx3-ubyte").write_bytes(images)
    (tmp_path / "labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(mc.FileError, match="idx"):
        load_notmnist(tmp_path / "images-idx3-ubyte")


def without(letter):
    return {name: data for name, data in letter_files().items() if name[0] != letter}


BAD_SETS = {
    "nothing there": lambda p: p / "missing.tar.gz",
    "an empty file": lambda p: make_folder(p, {"a.tar.gz": b""}) / "a.tar.gz",
    "text": lambda p: make_folder(p, {"a.tar.gz": b"hello" * 100}) / "a.tar.gz",
    "an empty tar": lambda p: make_tar(p / "a.tar.gz", {}),
    "an empty zip": lambda p: make_zip(p / "a.zip", {}),
    "an empty folder": lambda p: p,
    "another folder": lambda p: make_folder(p, {"photos/cat.png": png(ZEROS)}),
    "an archive of something else": lambda p: make_tar(p / "a.tar.gz", {"x/cat.png": png(ZEROS)}),
    "a letter missing": lambda p: make_tar(p / "a.tar.gz", without("G")),
    "an empty letter": lambda p: make_tar(p / "a.tar.gz", without("G") | {"G/x.png": b""}),
    "a cut archive": lambda p: (
        make_folder(p, {"b.tar.gz": make_tar(p / "a", letter_files()).read_bytes()[:-900]}) / "b.tar.gz"
    ),
    "images without labels": lambda p: make_folder(p, {"images-idx3-ubyte": idx(IMAGES)}),
    "a folder of empty letters": lambda p: make_folder(p, {f"{letter}/x.txt": b"" for letter in LETTERS}),
}


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("make", BAD_SETS.values(), ids=BAD_SETS)
def test_what_is_no_data_set_is_refused_with_its_name(tmp_path, make):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(mc.FileError) as caught:
        load_notmnist(make(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "idx"])
def test_mutated_files_are_read_or_refused_in_the_librarys_words(tmp_path, kind):
    rng = random.Random(0)
    files = letter_files(each=2)
    folder = make_folder(tmp_path / "folder", files)
    if kind == "idx":
        data = read_notmnist(folder)
        path = make_idx(tmp_path / "idx", data.images, data.labels, packed=True)
    else:
        path = (
            make_zip(tmp_path / "a.zip", files)
            if kind == "zip"
            else make_tar(tmp_path / "a.tar", files, mode="w" if kind == "tar" else "w:gz")
        )
    good = path.read_bytes()
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(len(data))
            if rng.random() < 0.6:
                data[place] = rng.randrange(256)
            elif rng.random() < 0.5:
                del data[place : place + rng.choice([1, 50, 5000])]
            else:
                data[place:place] = rng.randbytes(rng.choice([1, 50]))
            if not data:
                break
        path.write_bytes(data)
        try:
            found = read_notmnist(path)
            assert found.images.shape[1:] == (28, 28) and found.images.dtype == np.uint8
            assert found.labels.min() >= 0 and found.labels.max() < 10
        except mc.MinicnnError:
            refused += 1
    assert refused > 20


# Real images


def test_the_real_images_from_archive_and_idx_are_the_same(real_data):
    archive = read_notmnist(real_data / "notMNIST_sample.tar.gz")
    files = read_notmnist(real_data / "notmnist-images-idx3-ubyte.gz")
    assert len(archive.images) == len(files.images) == 15_629
    assert as_set(archive) == as_set(files)
    assert len(archive.skipped) == 2  # the two empty files of the original


def test_a_split_of_the_real_images_keeps_copies_together(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (x, y), (x_test, y_test) = load_notmnist(real_data / "notmnist-images-idx3-ubyte.gz")
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}
    assert np.allclose(np.bincount(y_test) / np.bincount(y), 1 / 9, atol=0.01)


# Splits and preprocessing


def test_a_stratified_split_takes_its_share_of_every_class(rng):
    labels = np.repeat([0, 1, 2], [10, 30, 60])
    train, held_out = stratified_split(labels, 0.2, rng)
    assert np.bincount(labels[held_out]).tolist() == [2, 6, 12]
    assert sorted([*train, *held_out]) == list(range(100))
    assert held_out.tolist() != sorted(held_out)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_share_must_lie_between_0_and_1(fraction, rng):
    with pytest.raises(mc.InputError):
        stratified_split(np.zeros(10, int), fraction, rng)


def test_normalize_by_hand(rng):
    x = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    x[0, :, 3] = 0
    y = mc.datasets.normalize(x)
    assert y.dtype == np.float32
    lengths = np.sqrt((y.astype("float64") ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths[lengths > 0], 1, rtol=1e-6)
    assert (y[0, :, 3] == 0).all()
    np.testing.assert_allclose(mc.datasets.normalize(np.array([[3.0, 4.0]]), axis=1), [[0.6, 0.8]])
