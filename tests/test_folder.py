"""A folder of pictures: which files are read, how they become arrays, how they are split; and the commands on it."""

import io
import os
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image

import minicnn as mc
from minicnn.datasets import Dataset, folder, images, load_folder
from minicnn.datasets.images import read_fitted, read_image


def picture(number, size=(9, 7), mode="RGB"):
    """Pixels that are different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make(root, names, **options):
    for number, name in enumerate(names):
        save(root / name, picture(number, **options))
    return root


def names_of(root, folders, count, end=".png"):
    return [f"{name}/{number}{end}" for name in folders for number in range(count)]


@pytest.fixture
def cats(tmp_path):
    """8 pictures of each of two classes."""
    return make(tmp_path / "pictures", names_of("", ["cat", "dog"], 8))


def pixels(path, mode="RGB"):
    return np.atleast_3d(read_image(path, mode=mode)).transpose(2, 0, 1)


def check_against_files(data, root, mode="RGB"):
    """Every image is that of its file, and the label the class in its name."""
    for split in data.names:
        x, y = getattr(data, split)
        assert len(x) == len(y) == len(data.names[split]) and x.dtype == np.uint8 and y.dtype == np.int64
        for image, label, name in zip(x, y, data.names[split], strict=True):
            np.testing.assert_array_equal(image, pixels(root / name, mode))
            assert data.classes[label] in name.split("/")


# Which files


def test_the_class_is_the_first_folder_below_which_pictures_lie_at_any_depth(tmp_path):
    files = ["cat/1.png", "cat/a b/2.png", "cat/a b/c/3.png", "dog/4.png", "dog/x/5.png", "Großer Bär 熊/6.png"]
    files += ["Großer Bär 熊/7.png", "dog/train/8.png"]
    root = make(tmp_path / "my pictures", files)
    for mode, channels in (("RGB", 3), ("L", 1)):
        data = load_folder(root, mode=mode, test=0.3)
        assert data.classes == ["Großer Bär 熊", "cat", "dog"] and data.skipped == [] and data.validation is None
        assert data.train[0].shape[1:] == (channels, 9, 7)
        assert sorted(data.names["train"] + data.names["test"]) == sorted(files)
        assert set(data.test[1]) == {0, 1, 2}
        check_against_files(data, root, mode)


def test_a_folder_that_is_split_stays_so(tmp_path):
    files = [f"{split}/{name}" for split in ("Train", "val", "test") for name in names_of("", ["cat", "dog"], 2)]
    root = make(tmp_path / "outer" / "inner", [*files, "train2/cat/9.png"])
    with pytest.warns(UserWarning, match="1 files.*train2/.*beside train"):
        data = load_folder(root.parent, mode="RGB")
    assert data.names == {
        "train": [name for name in files if "Train" in name],
        "validation": [name for name in files if "val" in name],
        "test": [name for name in files if "test" in name],
    }
    assert data.classes == ["cat", "dog"] and data.validation[1].tolist() == [0, 0, 1, 1]
    check_against_files(data, root)


def test_of_train_and_validation_alone_the_second_is_the_test(tmp_path):
    root = tmp_path / "pictures"
    make(root, [f"{split}/{n}" for split in ("training", "valid") for n in names_of("", ["a", "b"], 1)])
    data = load_folder(root)
    assert data.names == {"train": ["training/a/0.png", "training/b/0.png"], "test": ["valid/a/0.png", "valid/b/0.png"]}


def test_an_accent_written_in_two_ways_is_one_class(tmp_path):
    root = tmp_path / "pictures"
    make(root, ["train/cafe\u0301/1.png", "test/caf\u00e9/2.png", "train/x/3.png"])
    assert load_folder(root).classes == ["caf\u00e9", "x"]


BAD_FOLDERS = {
    "nothing there": (None, "does not exist"),
    "no subfolders": (["1.png", "2.png"], "one subfolder .* for each class"),
    "one class": (["cat/1.png", "cat/2.png"], "one class, 'cat'"),
    "an empty class": (["cat/1.png", "dog/2.png", "owl/.hidden"], "'owl' has no pictures"),
    "a class without a readable picture": (["cat/1.png", "cat/2.png", "dog/x.txt"], "'dog' can be read.*dog/x.txt"),
    "no readable picture": (["cat/x.txt", "dog/x.txt"], "no picture.*cat/x.txt"),
    "a class that training lacks": (["train/a/1.png", "train/b/2.png", "test/c/3.png"], "'c' in train/.*test/c/3.png"),
    "a class that only the test has": (["train/a/1.png", "train/b/x.txt", "test/b/3.png"], "'b' can be read"),
}


@pytest.mark.parametrize(("files", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_folder_that_is_not_a_data_set_is_refused(tmp_path, files, message):
    for number, name in enumerate(files or []):
        if name.endswith(".png"):
            save(tmp_path / "x" / name, picture(number))
        else:
            (tmp_path / "x" / name).parent.mkdir(parents=True)
            (tmp_path / "x" / name).write_bytes(b"hello")
    with pytest.raises(mc.FileError, match=message):
        load_folder(tmp_path / "x")


INVALID = [{"size": 32}, {"size": (0, 3)}, {"size": (10**5, 10**5)}, {"mode": "P"}, {"test": 1}, {"invert": 1}]
INVALID += [{"group": "name"}, {"seed": -1}, {"follow_links": "no"}]


@pytest.mark.parametrize("options", INVALID, ids=str)
def test_invalid_arguments_are_refused_before_a_file_is_read(options):
    with pytest.raises(mc.InputError, match=next(iter(options))):
        load_folder("nowhere", **options)


def test_what_cannot_be_read_is_counted_and_named(cats):
    (cats / "cat" / "broken\n.jpg").write_bytes(b"\xff\xd8\xff\xe0 not more")
    (cats / "notes.txt").write_bytes(b"hello")
    (cats / "dog" / ".hidden.png").write_bytes(b"hello")
    (cats / "dog" / "Thumbs.db").write_bytes(b"hello")
    (cats / "__MACOSX").mkdir()
    os.mkfifo(cats / "cat" / "pipe")
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match=r"3 files of .*notes\.txt.*not in the folder of a class") as caught:
            data = load_folder(cats)
        assert str(caught[0].message).isprintable()
        assert len(data.train[0]) + len(data.test[0]) == 16
        assert {name for name, _ in data.skipped} == {"cat/broken\n.jpg", "cat/pipe", "notes.txt"}


def test_links_are_followed_only_where_told_and_never_in_a_circle(tmp_path, cats):
    outside = make(tmp_path / "outside", ["1.png", "2.png"], size=(9, 7))
    (cats / "cat" / "more").symlink_to(outside)
    (cats / "cat" / "file.png").symlink_to(outside / "1.png")
    (cats / "dog" / "circle").symlink_to(cats)
    (cats / "dog" / "self").symlink_to(cats / "dog" / "self")
    (cats / "owl").symlink_to(outside)
    with pytest.warns(UserWarning, match="5 files.*link"):
        data = load_folder(cats)
    assert len(data.train[0]) + len(data.test[0]) == 16 and data.classes == ["cat", "dog"]
    (cats / "owl").unlink()
    with pytest.warns(UserWarning, match="2 files"):
        data = load_folder(cats, follow_links=True)
    found = data.names["train"] + data.names["test"]
    assert len(found) == 19 and {"cat/more/1.png", "cat/more/2.png", "cat/file.png"} < set(found)


# Their pixels


def test_every_format_is_read_as_it_looks(tmp_path):
    root = tmp_path / "pictures"
    image = picture(0, (12, 10)).resize((10, 12))
    exif = Image.Exif()
    exif[274] = 6
    alpha = picture(3, (12, 10))
    alpha.putalpha(100)
    wide = Image.fromarray(np.full((12, 10), 40000, np.uint16))
    for name, saved, options in (
        ("cmyk.jpg", image.convert("CMYK"), {}),
        ("turned.jpg", image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        ("palette.png", image.quantize(8), {}),
        ("alpha.png", alpha, {}),
        ("wide.png", wide, {}),
        ("moving.gif", image.quantize(8), {"save_all": True, "append_images": [picture(1, (12, 10)).quantize(8)]}),
        ("x.webp", image, {"lossless": True}),
        ("x.tiff", image, {}),
        ("no ending", image, {"format": "BMP"}),
    ):
        save(root / "a" / name, saved, **options)
    save(root / "b" / "1.png", image)
    for mode in ("L", "RGB"):
        data = load_folder(root, mode=mode, cache=False)
        assert len(data.train[0]) + len(data.test[0]) == 10 and data.skipped == []
        check_against_files(data, root, mode)
    turned = data.train[0][data.names["train"].index("a/turned.jpg")] if "a/turned.jpg" in data.names["train"] else None
    assert turned is None or turned.shape == (3, 12, 10)


def test_pictures_of_different_sizes_are_fitted_in_or_refused(tmp_path):
    root = tmp_path / "pictures"
    for number, size in enumerate([(40, 20), (20, 40), (8, 8), (1, 500), (500, 1)] * 2):
        save(root / "ab"[number % 2] / f"{number}.png", Image.new("RGB", size[::-1], (200, 150, 100)))
    with pytest.raises(mc.FileError, match=r"different sizes.*size=\("):
        load_folder(root)
    data = load_folder(root, (16, 16), mode="RGB")
    for name, image in zip(data.names["train"], data.train[0], strict=True):
        height, width = images.picture_size(root / name)
        h, w = (max(1, round(16 * side / max(width, height))) for side in (height, width))
        shown = (image == np.array([200, 150, 100])[:, None, None]).all(axis=0)
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        assert shown.sum() == h * w and (image[:, ~shown] == 0).all()
        assert (rows[0], columns[0]) == ((16 - h) // 2, (16 - w) // 2)


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(monkeypatch):
    smooth = picture(1, (6, 8)).resize((800, 600), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95, exif=exif)
    found = read_fitted(file.getvalue(), (64, 32), mode="RGB")
    drafts = []
    monkeypatch.setattr(images, "_draft_size", lambda *arguments: drafts.append(arguments) or (800, 600))
    expected = read_fitted(file.getvalue(), (64, 32), mode="RGB")
    assert drafts and np.abs(found.astype(int) - expected).max() <= 6
    assert read_image(file.getvalue()).shape == (800, 600)
    monkeypatch.undo()
    assert read_image(file.getvalue(), into=(160, 80)).shape == (400, 300)  # twice the sides in the result, at least


def test_dark_drawings_on_a_light_ground_are_noticed_and_inverted(tmp_path):
    root = tmp_path / "pictures"
    for number in range(8):
        pixels = np.full((10, 14), 250, np.uint8)
        pixels[4:6, 2 + number % 4 : 8] = number
        save(root / "ab"[number % 2] / f"{number}.png", Image.fromarray(pixels))
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="bright border.*invert=True"):
            load_folder(root, (14, 14))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_folder(root, (14, 14), invert=True)
        load_folder(root, (14, 14), mode="RGB")
    assert (data.train[0][:, :, [0, -1]] == 0).all()  # the padding is black, after the inversion


# The split


def test_copies_and_groups_stay_on_one_side(tmp_path):
    root = tmp_path / "pictures"
    files = [f"{name}/{who}/{k}.png" for name in ("cat", "dog") for who in "abcdef" for k in range(3)]
    make(root, files)
    for name in ("cat", "dog"):
        for k in range(4):
            (root / name / "copies").mkdir(exist_ok=True)
            (root / name / "copies" / f"{k}.png").write_bytes((root / name / "a" / "0.png").read_bytes())
    for seed in range(3):
        data = load_folder(root, test=0.3, seed=seed)
        sides = [{image.tobytes() for image in x} for x, _ in data]
        assert not sides[0] & sides[1]
        data = load_folder(root, test=0.3, seed=seed, group=lambda name: name.rpartition("/")[0])
        sides = [{name.rpartition("/")[0] for name in data.names[split]} for split in ("train", "test")]
        assert sides[1] and not sides[0] & sides[1]
        assert not ({"cat/a", "cat/copies"} & sides[0] and {"cat/a", "cat/copies"} & sides[1])
    with pytest.raises(mc.InputError, match=r"group failed for 'cat/a/0\.png': KeyError"):
        load_folder(root, group=lambda name: {}[name])


def test_the_same_seed_gives_the_same_split(cats):
    first, second = (load_folder(cats, seed=1, cache=cache) for cache in (True, False))
    assert first.names == second.names != load_folder(cats, seed=2).names
    np.testing.assert_array_equal(first.train[0], second.train[0])


# The cache


def test_the_second_start_reads_no_picture_and_a_changed_one_is_read_again(cats, monkeypatch):
    decoded = []

    def counted(path, *arguments, **options):
        decoded.append(path)
        return read_image(path, *arguments, **options)

    monkeypatch.setattr(folder, "read_image", counted)
    first = load_folder(cats)
    assert len(decoded) == 16
    second = load_folder(cats)
    assert len(decoded) == 16 and isinstance(second.train[0].base, np.memmap)
    np.testing.assert_array_equal(first.train[0], second.train[0])
    for options in ({"mode": "RGB"}, {"size": (5, 5)}, {"invert": True}, {"test": 0.4}, {"seed": 3}):
        before = len(decoded)
        load_folder(cats, **options)
        assert len(decoded) == before + 16, options
    os.utime(cats / "cat" / "3.png", ns=(1, 1))
    before = len(decoded)
    load_folder(cats)
    (cats / "dog" / "0.png").rename(cats / "dog" / "00.png")
    names = load_folder(cats).names
    assert "dog/00.png" in names["train"] + names["test"]
    assert len(decoded) == before + 32


def test_pictures_that_do_not_fit_in_the_memory_pass_through_a_file(tmp_path, monkeypatch):
    make(tmp_path / "pictures", names_of("", "abcd", 40, ".bmp"), size=(96, 96))
    expected = load_folder(tmp_path / "pictures", mode="RGB", cache=False)
    monkeypatch.setattr(folder, "LARGE", 2**16)
    monkeypatch.setattr(mc.datasets.cache, "CHUNK_SIZE", 2**16)
    monkeypatch.setattr(folder, "BATCH", 4)
    tracemalloc.start()
    try:
        found = load_folder(tmp_path / "pictures", mode="RGB")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 < 160 * 96 * 96 * 3 / 4  # a fraction of the pixels
    for split in range(2):
        np.testing.assert_array_equal(found[split][0], expected[split][0])
        np.testing.assert_array_equal(found[split][1], expected[split][1])
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_file()]  # the file had no name


def test_a_full_disk_is_reported(cats, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "LARGE", 0)
    monkeypatch.setattr(folder.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(mc.FileError, match="No space left"):
        load_folder(cats)


def test_a_data_set_is_a_tuple_that_knows_its_classes(cats):
    data = load_folder(cats)
    (x, y), (x_test, y_test) = data
    assert (
        data.train[0] is x
        and data.test[1] is y_test
        and isinstance(data, tuple)
        and "2 classes: cat, dog" in repr(data)
    )
    again = pickle.loads(pickle.dumps(data))
    assert (again.classes, again.names, again.skipped) == (data.classes, data.names, data.skipped)
    np.testing.assert_array_equal(again.test[0], x_test)
    for classes in ("cat", ["cat", "cat"], ["cat", ""], [1, 2]):
        with pytest.raises(mc.InputError, match="classes"):
            Dataset((x, y), (x_test, y_test), classes)
    assert mc.datasets.load_letters(20, 10, cache=False).classes == list("ABCDEFGHIJ")
