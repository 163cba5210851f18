"""MNIST and its relatives: each family in small, as it is published."""

import gzip
import string
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import minicnn as mc
from minicnn.datasets import load_idx, load_notmnist
from minicnn.datasets.mnist import FASHION


def idx(array):
    """A file of IDX: bytes, or int32 with the high byte first."""
    code = {"uint8": 8, "int32": 12}[array.dtype.name]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images_for(labels, seed, shape=(8, 6)):
    return np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), dtype=np.uint8)


def write_pair(folder, start, images, labels, packed=False, labels_end="labels-idx1-ubyte"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{start}images-idx3-ubyte", images), (f"{start}{labels_end}", labels)):
        data = idx(array)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)


def write_set(folder, train, test, name="", second="t10k", **options):
    """A training and a test pair; returns the images."""
    x, x_test = images_for(train, 0), images_for(test, 1)
    write_pair(folder, f"{name}train-", x, train, **options)
    write_pair(folder, f"{name}{second}-", x_test, test, **options)
    return x, x_test


DIGITS = np.array([5, 0, 4, 1, 9, 2, 1, 3, 6, 7, 8], np.uint8)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("inner", "classes"), [("MNIST/raw", "0123456789"), ("FashionMNIST/raw", FASHION), ("fashion", FASHION)]
)
def test_mnist_and_fashion_mnist_also_as_torchvision_stores_them(tmp_path, inner, classes, packed):
    x, x_test = write_set(tmp_path / inner, DIGITS, DIGITS[3:], packed=packed)
    for path in (tmp_path / inner.split("/")[0], tmp_path / inner):
        data = load_idx(path)
        assert data.classes == list(classes) and data.train[0].shape == (11, 1, 8, 6)
        np.testing.assert_array_equal(data.train[0][:, 0], x)
        np.testing.assert_array_equal(data.test[0][:, 0], x_test)
        np.testing.assert_array_equal(data.train[1], DIGITS)
        np.testing.assert_array_equal(data.test[1], DIGITS[3:])
        assert data.train[1].dtype == np.int64


MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
EMNIST = {
    "byclass": (string.digits + string.ascii_uppercase + string.ascii_lowercase, 0),
    "bymerge": (MERGED, 0),
    "balanced": (MERGED, 0),
    "letters": (string.ascii_uppercase, 1),
    "digits": (string.digits, 0),
    "mnist": (string.digits, 0),
}


@pytest.mark.parametrize("has_mapping", [True, False])
def test_emnist_in_all_its_splits(tmp_path, has_mapping):
    made = {}
    for name, (classes, first) in EMNIST.items():
        labels = np.arange(first, first + len(classes), dtype=np.uint8)
        made[name] = write_set(tmp_path / "gzip", labels, labels[::-1].copy(), f"emnist-{name}-", "test", packed=True)
        if has_mapping:
            codes = [[ord(c), ord(c.lower())] if name == "letters" else [ord(c)] for c in classes]
            lines = [" ".join(map(str, [label, *codes])) for label, codes in zip(labels, codes, strict=True)]
            (tmp_path / "gzip" / f"emnist-{name}-mapping.txt").write_text("\n".join(lines) + "\n")
    for name, (classes, _) in EMNIST.items():
        file = tmp_path / "gzip" / f"emnist-{name}-train-images-idx3-ubyte.gz"
        for data in (load_idx(tmp_path, name), load_idx(file)):
            assert data.classes == list(classes)
            np.testing.assert_array_equal(data.train[0][:, 0], made[name][0].swapaxes(1, 2))  # they lie on their sides
            np.testing.assert_array_equal(data.test[1], np.arange(len(classes))[::-1])
    plain = load_idx(tmp_path, "emnist-digits", transpose=False, invert=True)
    np.testing.assert_array_equal(255 - plain.train[0][:, 0], made["digits"][0])
    for name in (None, "capital"):
        with pytest.raises(mc.FileError, match=r"choose a name.*emnist-balanced.*emnist-mnist"):
            load_idx(tmp_path, name)


def test_images_that_are_not_square_are_transposed(tmp_path):
    x, _ = write_set(tmp_path, DIGITS, DIGITS)
    data = load_idx(tmp_path, transpose=True)
    assert data.train[0].shape == (11, 1, 6, 8)
    np.testing.assert_array_equal(data.train[0][:, 0], x.swapaxes(1, 2))


def test_qmnist_has_its_class_in_the_first_of_several_columns(tmp_path):
    labels = np.random.default_rng(0).integers(0, 10**6, (11, 8), dtype=np.int32)
    labels[:, 0] = DIGITS
    x, _ = write_set(tmp_path, labels, labels, "qmnist-", "test", packed=True, labels_end="labels-idx2-int")
    data = load_idx(tmp_path)
    np.testing.assert_array_equal(data.train[1], DIGITS)
    np.testing.assert_array_equal(data.train[0][:, 0], x)
    assert data.classes == list("0123456789")


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_npz_file_of_keras(tmp_path, save, channels):
    x = images_for(DIGITS, 0, (8, 6, *channels))
    save(tmp_path / "mnist.npz", x_train=x, y_train=DIGITS, x_test=x[2:], y_test=DIGITS[2:, None].astype(np.int64))
    for path in (tmp_path / "mnist.npz", tmp_path):
        data = load_idx(path, cache=False)
        np.testing.assert_array_equal(data.train[0], x[:, None] if not channels else x.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(data.test[1], DIGITS[2:])


def npz(path, **changes):
    arrays = {"x_train": images_for(DIGITS, 0), "y_train": DIGITS, "x_test": images_for(DIGITS, 1), "y_test": DIGITS}
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"y_test": None},
        {"x_train": images_for(DIGITS, 0).astype(float)},
        {"y_train": DIGITS[:-1]},
        {"y_train": np.array([{}] * 11, dtype=object)},
        {"x_test": np.asfortranarray(images_for(DIGITS, 1))},
        {"x_test": np.zeros((11, 8, 6, 5), np.uint8)},
    ],
    ids=["an array missing", "floats", "a label missing", "pickled", "another order", "five channels"],
)
def test_an_npz_file_of_another_kind_is_refused(tmp_path, changes):
    npz(tmp_path / "mnist.npz", **changes)
    with pytest.raises(mc.FileError, match="mnist"):
        load_idx(tmp_path / "mnist.npz")


def test_an_npz_file_whose_header_claims_too_much_is_refused(tmp_path):
    npz(tmp_path / "mnist.npz")
    with zipfile.ZipFile(tmp_path / "mnist.npz") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    plain, huge = b"(11, 8, 6), }" + b" " * 10, b"(11" + b"0" * 10 + b", 8, 6), }"
    assert plain in files["x_train.npy"]
    files["x_train.npy"] = files["x_train.npy"].replace(plain, huge)
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    tracemalloc.start()
    try:
        with pytest.raises(mc.FileError, match="mnist"):
            load_idx(tmp_path / "mnist.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def write_cifar(folder, names, n_labels, per_file=4):
    """Files of records of labels and pixels; returns the images and the last labels of each."""
    folder.mkdir(parents=True)
    found = []
    for number, name in enumerate(names):
        pixels = images_for(range(per_file), number, (3, 32, 32))
        labels = np.arange(per_file * n_labels, dtype=np.uint8).reshape(per_file, n_labels) % 7
        (folder / name).write_bytes(np.concatenate([labels, pixels.reshape(per_file, -1)], axis=1).tobytes())
        found.append((pixels, labels[:, -1]))
    return found


def test_cifar_10_and_100_in_their_binary_version(tmp_path):
    root = tmp_path / "data"
    batches = [f"data_batch_{k}.bin" for k in range(1, 6)]
    *train, (x_test, y_test) = write_cifar(root / "cifar-10-batches-bin", [*batches, "test_batch.bin"], 1)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog"]
    (root / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    data = load_idx(root)
    assert data.classes == names and data.train[0].shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(data.train[0], np.concatenate([x for x, _ in train]))
    np.testing.assert_array_equal(data.train[1], np.concatenate([y for _, y in train]))
    np.testing.assert_array_equal(data.test[0], x_test)
    np.testing.assert_array_equal(data.test[1], y_test)
    (root / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(mc.FileError, match=r"data_batch_3\.bin.*incomplete"):
        load_idx(root)
    (x, y), _ = write_cifar(root / "cifar-100-binary", ["train.bin", "test.bin"], 2)
    fine = [f"thing {k}".replace(" ", "_") for k in range(100)]
    (root / "cifar-100-binary" / "fine_label_names.txt").write_text("\n".join(fine))
    data = load_idx(root / "cifar-100-binary")
    assert data.classes == fine
    np.testing.assert_array_equal(data.train[0], x)
    np.testing.assert_array_equal(data.train[1], y)
    with open(root / "cifar-100-binary" / "test.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(mc.FileError, match=r"test\.bin.*records"):
        load_idx(root / "cifar-100-binary")


def test_one_pair_is_split_with_copies_on_one_side(tmp_path):
    labels = np.repeat(np.array([3, 7], np.uint8), 40)
    x = images_for(labels, 0)
    x[20:40] = x[:20]
    write_pair(tmp_path, "", x, labels)
    data = load_idx(tmp_path, test=0.25, seed=1)
    assert data.classes == ["3", "7"] and len(data.test[0]) == 20
    train, test = ({image.tobytes() for image in x} for x, _ in data)
    assert not train & test


def test_the_second_start_comes_from_the_cache_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    write_set(tmp_path / "raw", DIGITS, DIGITS)
    first = load_idx(tmp_path / "raw")
    read_images = mc.datasets.idx.read_images
    monkeypatch.setattr(mc.datasets.idx, "read_images", None)
    np.testing.assert_array_equal(load_idx(tmp_path / "raw").train[0], first.train[0])
    monkeypatch.setattr(mc.datasets.idx, "read_images", read_images)
    x, _ = write_set(tmp_path / "raw", DIGITS[::-1].copy(), DIGITS, "")
    (tmp_path / "raw" / "train-images-idx3-ubyte").write_bytes(idx(255 - x))
    np.testing.assert_array_equal(load_idx(tmp_path / "raw").train[0][:, 0], 255 - x)


def test_labels_and_files_that_do_not_belong_together_are_refused(tmp_path):
    write_set(tmp_path / "more", DIGITS[:3], DIGITS)
    with pytest.raises(mc.FileError, match="label 1 in the test set"):
        load_idx(tmp_path / "more")
    x = images_for(DIGITS, 0)
    write_pair(tmp_path / "sizes", "train-", x, DIGITS)
    write_pair(tmp_path / "sizes", "t10k-", images_for(DIGITS, 1, (6, 6)), DIGITS)
    with pytest.raises(mc.FileError, match=r"t10k.*\(6, 6\)"):
        load_idx(tmp_path / "sizes")
    write_pair(tmp_path / "types", "", x, DIGITS)
    (tmp_path / "types" / "labels-idx1-ubyte").write_bytes(idx(x))
    with pytest.raises(mc.FileError, match="labels-idx1-ubyte' starts with"):
        load_idx(tmp_path / "types")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(mc.FileError, match=path.name):
            load_idx(path)
    for options in ({"name": 3}, {"test": 0}, {"invert": "no"}, {"seed": 0.5}):
        with pytest.raises(mc.InputError, match=next(iter(options))):
            load_idx(tmp_path / "more", **options)
    with pytest.raises(mc.FileError, match=r"\(8, 6\) pixels"):
        load_notmnist(tmp_path / "more")
