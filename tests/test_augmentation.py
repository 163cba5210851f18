"""Augmentation: every change against an oracle, and what `fit` sees of it."""

import itertools
import math
import os
import threading
import time

import numpy as np
import pytest
import strict_backend
from strict_backend import strict
from test_training import Spy, small_model, small_set

import minicnn as mc
from minicnn.backends.cupy import CupyOperations
from minicnn.backends.numpy.prefetch import is_in_memory, prefetch
from minicnn.core import operations
from minicnn.datasets.splits import Rows, stratified_split
from minicnn.training import augmentation as module
from minicnn.training.augmentation import Augmentation, sample

SIZES = [(1, 5, 5), (3, 4, 7), (2, 6, 3), (1, 1, 1)]


def pixels(rng, shape, dtype):
    return rng.integers(0, 256, shape, dtype=np.uint8) if dtype == "uint8" else rng.normal(size=shape).astype(dtype)


def drawn(N=1, **numbers):
    """Random numbers in the middle of their ranges, no rectangle erased, but for those given by name."""
    found = np.full((N, module.COUNT), 0.5, dtype=np.float32)
    for name, number in numbers.items():
        found[:, getattr(module, name)] = number
    return found


def sampled_by_loops(x, M, move):
    """`sample`, pixel by pixel, in float64."""
    H, W = x.shape[2:]
    y = np.zeros(x.shape)
    for n, c, h, w in itertools.product(*map(range, x.shape)):
        away = np.array([h - (H - 1) / 2, w - (W - 1) / 2])
        row, column = np.array([(H - 1) / 2, (W - 1) / 2]) + M[:, :, n] @ away + move[:, n]
        for r, s in itertools.product(
            (math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)
        ):
            if 0 <= r < H and 0 <= s < W:
                y[n, c, h, w] += (1 - abs(row - r)) * (1 - abs(column - s)) * float(x[n, c, r, s])
    return y


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("uint8", 0.51), ("float32", 1e-4), ("float64", 1e-4)])
def test_an_affine_map_is_that_of_a_loop_over_pixels(shape, dtype, tolerance, rng):
    x = pixels(rng, (4, *shape), dtype)
    before = x.copy()
    M = (np.eye(2)[:, :, None] + rng.normal(scale=0.4, size=(2, 2, 4))).astype("float32")
    move = rng.normal(scale=2, size=(2, 4)).astype("float32")
    y = sample(x, M, move)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, sampled_by_loops(x, M, move), atol=tolerance)
    np.testing.assert_array_equal(x, before)


def test_many_images_are_sampled_as_each_alone(rng, monkeypatch):
    x = pixels(rng, (7, 2, 5, 4), "uint8")
    change = Augmentation(shift=1, rotate=20, scale=0.2)
    together = change(x)
    monkeypatch.setattr(module, "PIXELS", 100)  # two images at a time
    np.testing.assert_array_equal(change(x), together)
    order = np.array([3, 0, 6])
    np.testing.assert_array_equal(change.change(x[order], change.draw(7, 0)[order]), together[order])


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_changes_of_no_extent_change_nothing(shape, dtype, rng):
    x = pixels(rng, (3, *shape), dtype)
    np.testing.assert_array_equal(Augmentation()(x), x)
    everything = Augmentation(shift=3, rotate=90, scale=0.5, shear=1, crop=0.5, erase=1)
    np.testing.assert_array_equal(everything.change(x, drawn(3, CROP=0)), x)  # the middle of every range
    assert not np.array_equal(everything(x), x) or x[0, 0].size == 1


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -2), (-1, 1)])
def test_a_shift_by_pixels_is_a_roll_that_fills_with_zeros(shape, down, right, rng):
    x = pixels(rng, (2, *shape), "uint8")
    y = Augmentation(shift=2).change(x, drawn(2, DOWN=0.5 + down / 4, RIGHT=0.5 + right / 4))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(y, np.roll(padded, (down, right), (2, 3))[:, :, 2:-2, 2:-2])


def test_a_shift_of_one_axis_moves_along_that_axis_alone(rng):
    x = pixels(rng, (2, 1, 6, 6), "uint8")
    y = Augmentation(shift=(0, 2)).change(x, drawn(2, DOWN=1, RIGHT=1))
    np.testing.assert_array_equal(y[..., 2:], x[..., :-2])


@pytest.mark.parametrize("side", [1, 4, 5])
def test_a_rotation_by_90_degrees_is_rot90(side, rng):
    x = pixels(rng, (2, 2, side, side), "uint8")
    for number, turns in ((0, 1), (1, -1)):
        y = Augmentation(rotate=90).change(x, drawn(2, ANGLE=number))
        assert any(np.array_equal(y, np.rot90(x, sign * turns, (2, 3))) for sign in (1, -1))
    np.testing.assert_array_equal(Augmentation(rotate=180).change(x, drawn(2, ANGLE=1)), x[..., ::-1, ::-1])


def test_scale_enlarges_about_the_centre(rng):
    x = np.zeros((1, 1, 9, 9), "float32")
    x[..., 3:6, 3:6] = 1
    larger = Augmentation(scale=0.5).change(x, drawn(SCALE=1))
    assert larger.sum() == pytest.approx(9 * 1.5**2, rel=0.1)
    np.testing.assert_allclose(larger, larger[..., ::-1, ::-1])
    x = pixels(rng, (1, 1, 9, 9), "uint8")
    smaller = Augmentation(scale=0.5).change(x, drawn(SCALE=0))
    np.testing.assert_array_equal(smaller, np.pad(x[..., ::2, ::2], ((0, 0), (0, 0), (2, 2), (2, 2))))


def test_shear_moves_rows_to_the_side():
    x = np.zeros((1, 1, 5, 5), "uint8")
    x[..., 2] = 255  # a vertical line becomes a diagonal
    y = Augmentation(shear=1).change(x, drawn(SHEAR=1))[0, 0]
    assert np.array_equal(y, 255 * np.eye(5, dtype="uint8")) or np.array_equal(y, 255 * np.eye(5, dtype="uint8")[::-1])


def test_flip_mirrors_about_half_of_the_images(rng):
    x = pixels(rng, (200, 1, 3, 4), "uint8")
    y = Augmentation(flip=True)(x)
    mirrored = (y == x[..., ::-1]).all(axis=(1, 2, 3))
    assert ((y == x).all(axis=(1, 2, 3)) | mirrored).all()
    assert 60 < mirrored.sum() < 140


def test_a_crop_shows_a_window_of_the_image():
    """A linear image stays linear: the corners tell which window is shown."""
    H, W = 9, 12
    rows, columns = np.mgrid[:H, :W].astype("float64")
    x = np.broadcast_to(np.stack([rows, columns]), (300, 2, H, W))
    y = Augmentation(crop=0.5)(x)
    assert y.min() >= 0 and y[:, 0].max() <= H - 1 and y[:, 1].max() <= W - 1
    heights, widths = y[:, 0, -1, 0] - y[:, 0, 0, 0], y[:, 1, 0, -1] - y[:, 1, 0, 0]
    np.testing.assert_allclose(heights / (H - 1), widths / (W - 1), atol=1e-4)  # the aspect is kept
    assert heights.min() < 0.55 * (H - 1) and heights.max() > 0.95 * (H - 1)
    assert y[:, 0, 0, 0].min() < 0.2 and (y[:, 0, 0, 0] + heights).max() > H - 1.2  # anywhere in the image


def test_erase_sets_one_rectangle_to_zero(rng):
    x = rng.integers(1, 256, (300, 2, 6, 9), dtype=np.uint8)
    y = Augmentation(erase=0.5)(x)
    erased = y != x
    assert (y[erased] == 0).all() and (erased[:, 0] == erased[:, 1]).all()
    rows, columns = erased[:, 0].any(axis=2), erased[:, 0].any(axis=1)
    np.testing.assert_array_equal(erased[:, 0], rows[:, :, None] & columns[:, None, :])  # a rectangle, not cut off
    for along in (rows, columns):
        assert (np.abs(np.diff(np.pad(along.astype(int), ((0, 0), (1, 1))), axis=1)).sum(axis=1) <= 2).all()
        assert along.any(axis=0).all()  # anywhere
    assert rows.sum(axis=1).max() == 3 and columns.sum(axis=1).max() == 4  # the half of 9, rounded to even
    assert 80 < erased.any(axis=(1, 2, 3)).sum() < 180
    for first in range(4):  # of 3 rows in 6
        y = Augmentation(erase=0.5).change(x[:1], drawn(ERASE=0, ERASE_HEIGHT=1, ERASE_DOWN=(first + 0.5) / 4))
        np.testing.assert_array_equal(np.flatnonzero((y[0, 0] == 0).any(axis=1)), np.arange(first, first + 3))


def test_changes_do_not_depend_on_each_other():
    """Each has random numbers of its own: which rectangle is erased says nothing of the crop."""
    names = [name for name in vars(module) if name.isupper() and name not in ("COUNT", "FAR", "PIXELS")]
    assert sorted(getattr(module, name) for name in names) == list(range(module.COUNT))


def test_mixup_mixes_images_and_labels_alike(rng):
    N, K = 40, 4
    y = np.arange(N) % K
    x = np.zeros((N, K, 2, 2), "float32")
    x[np.arange(N), y] = 1  # an image shows its label
    train = np.flatnonzero(y > 0)  # no image of class 0 is trained on
    images, labels = Augmentation(mixup=0.5).views(x, y, train, 3, K)
    rows = rng.permutation(train)
    assert labels[rows].shape == (len(train), K) and labels[rows].dtype == np.float32 and len(images) == N
    np.testing.assert_allclose(labels[rows].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(images[rows].mean(axis=(2, 3)), labels[rows], atol=1e-6)
    assert (labels[rows][:, 0] == 0).all()  # partners only from the rows that are trained on
    assert (labels[rows].max(axis=1) < 0.99).sum() > 5
    np.testing.assert_allclose(images[rows[:5]], images[rows][:5])
    by_rows = Augmentation(mixup=0.5).views(x, np.eye(K)[y], train, 3, K)[1]
    np.testing.assert_allclose(by_rows[rows], labels[rows], atol=1e-6)


def test_an_epoch_is_repeated_and_the_next_one_differs(rng):
    x = pixels(rng, (4, 1, 8, 8), "uint8")
    change = Augmentation(shift=2, erase=0.5, seed=1)
    np.testing.assert_array_equal(change(x, 5), Augmentation(shift=2, erase=0.5, seed=1)(x, 5))
    assert not np.array_equal(change(x, 5), change(x, 6))
    assert not np.array_equal(change(x, 5), Augmentation(shift=2, erase=0.5, seed=2)(x, 5))


@pytest.mark.parametrize(
    "values",
    [
        *({"shift": value} for value in (-1, "2", (1, 2, 3), (1, -1), math.nan, math.inf, True, None)),
        *({"rotate": value} for value in (-1, 181)),
        *({"scale": 1}, {"crop": 1}, {"erase": 1.1}, {"mixup": -0.1}, {"shear": math.inf}, {"flip": 1}, {"seed": -1}),
        *({"shift": 1, "zoom": 2},),
    ],
)
def test_values_out_of_their_range_are_refused(values):
    with pytest.raises(mc.InputError):
        Augmentation(**values)


def test_what_is_not_images_is_refused():
    for x in (np.zeros((2, 5, 5)), np.zeros((2, 1, 5, 5), int), [[0]], None):
        with pytest.raises(mc.InputError, match="Augmentation"):
            Augmentation(shift=1)(x)


def test_the_text_of_an_augmentation_is_how_it_is_made():
    change = Augmentation(shift=(1, 2), rotate=10, flip=True, seed=3)
    made = eval(repr(change), {"Augmentation": Augmentation})
    assert vars(made) == vars(change) and repr(Augmentation()) == "Augmentation()"


# In fit


def spied(dtype="float32", **options):
    """The batches that a model is trained on, and its history."""
    model = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    x, y = small_set(20)
    x = x if dtype == "uint8" else (x / 255).astype(dtype)
    before = x.copy()
    history = model.fit(x, y, epochs=2, batch_size=8, optimizer=mc.SGD(0.0), verbose=False, **options)
    np.testing.assert_array_equal(x, before)
    return model.batches, history


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_fit_trains_on_changed_images_and_validates_on_the_others(dtype):
    plain, plain_history = spied(dtype, shuffle=False, validation_split=0.3)
    changed, history = spied(dtype, shuffle=False, validation_split=0.3, augmentation=Augmentation(shift=1))
    assert not np.array_equal(plain[0], changed[0]) and plain[0].shape == changed[0].shape
    half = len(plain) // 2
    np.testing.assert_array_equal(plain[0], plain[half])
    assert not np.array_equal(changed[0], changed[half])  # every epoch sees others
    assert history["val_loss"] == plain_history["val_loss"] and history["loss"] != plain_history["loss"]


def test_fit_reads_what_the_augmentation_returns_for_these_rows():
    x, y = small_set(20)
    change = Augmentation(shift=1, rotate=20)
    batches, _ = spied("uint8", shuffle=False, validation_split=0.3, augmentation=change)
    train, _ = stratified_split(y, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(batches[0], change(x, 0)[train[:8]])
    steps = -(-len(train) // 8)
    np.testing.assert_array_equal(batches[steps], change(x, steps)[train[:8]])


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: strict_backend.cublas)
    monkeypatch.setattr("minicnn.backends.cupy.recording.find_cublas", lambda xp: strict_backend.cublas)
    yield CupyOperations(strict)
    mc.use("numpy")


def trained(on_device=False, x=None, y=None, epochs=2, **options):
    x, y = small_set(40) if x is None else (x, y)
    model = small_model()
    options = {"batch_size": 16, "verbose": False, "validation_split": 0.25, "epochs": epochs} | options
    options.setdefault("augmentation", Augmentation(shift=1, rotate=10, mixup=0.3))
    history = model.fit(mc.to_device(x) if on_device else x, y, optimizer=mc.Adam(0.01), **options)
    return [mc.to_numpy(p.value).copy() for p in model.parameters().values()], history


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("on_device", [False, True])
def test_every_backend_sees_the_same_images(device, on_device):
    expected, history = trained()
    for backend in ("plain", device):
        mc.use(backend)
        found, there = trained(on_device)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(history["val_loss"], there["val_loss"], rtol=1e-3)


def test_mixup_counts_the_larger_part_as_the_label():
    _, history = trained(augmentation=Augmentation(mixup=0.2), epochs=12)
    assert history["accuracy"][-1] > 0.8


def test_a_resumed_run_sees_the_same_images(tmp_path):
    whole, _ = trained(epochs=3)
    path = tmp_path / "run.npz"

    class Stop(mc.Callback):
        def on_batch_end(self, batch, loss):
            if self.optimizer.steps == 3:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        trained(epochs=3, checkpoint=path, callbacks=[Stop()])
    resumed, _ = trained(epochs=3, checkpoint=path, resume=True, callbacks=[Stop()])
    assert same(whole, resumed)
    with pytest.raises(mc.InputError, match="augmentation"):
        trained(epochs=4, checkpoint=path, resume=True, callbacks=[Stop()], augmentation=None)
    with pytest.raises(mc.InputError, match=r"augmentation\.shift was"):
        other = Augmentation(shift=2, rotate=10, mixup=0.3)
        trained(epochs=4, checkpoint=path, resume=True, callbacks=[Stop()], augmentation=other)


def test_a_second_fit_sees_new_images():
    model, optimizer = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8)), mc.SGD(0.0)
    x, y = small_set(8)
    for _ in range(2):
        model.fit(x, y, epochs=1, optimizer=optimizer, verbose=False, shuffle=False, augmentation=Augmentation(shift=2))
    assert not np.array_equal(*model.batches)


class OnlyIndices(mc.SoftmaxCrossEntropy):
    def check(self, labels, shape):
        if labels.ndim != 1:
            raise mc.InputError("no rows")


def test_fit_refuses_an_augmentation_that_does_not_suit():
    x, y = small_set(8)
    model = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    with pytest.raises(mc.InputError, match="fit needs augmentation"):
        model.fit(x, y, verbose=False, augmentation=3)
    with pytest.raises(mc.InputError, match="OnlyIndices refuses them: no rows"):
        model.fit(x, y, verbose=False, loss=OnlyIndices(), augmentation=Augmentation(mixup=1))
    vectors = mc.Sequential([mc.Dense(3)], input_shape=(4,))
    with pytest.raises(mc.InputError, match="images"):
        vectors.fit(np.ones((3, 4)), [0, 1, 2], verbose=False, augmentation=Augmentation(shift=1))


# The next batch is prepared ahead of time


class Recorded:
    """A data set that is computed when it is read, and knows who read what."""

    def __init__(self, x, fails_at=None):
        self.x, self.shape, self.dtype, self.ndim = x, x.shape, x.dtype, x.ndim
        self.reads, self.threads, self.fails_at = [], set(), fails_at

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        self.threads.add(threading.current_thread().name)
        self.reads.append(rows)
        if len(self.reads) - 1 == self.fails_at:
            raise MemoryError("this batch")
        return self.x[rows]


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr("minicnn.backends.numpy.thread_count", lambda: 2)


def waiting():
    return [thread for thread in threading.enumerate() if thread.name == "minicnn-batch"]


ROWS = [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_what_is_computed_or_in_a_file_is_prepared_ahead(two_threads, tmp_path):
    x = np.arange(36.0).reshape(9, 4)
    path = tmp_path / "x.npy"
    np.save(path, x)
    mapped = np.load(path, mmap_mode="r")
    assert is_in_memory(x) and is_in_memory(x[1:].T)
    assert not any(map(is_in_memory, (mapped, mapped[1:], np.asarray(mapped)[1:], Rows(x, np.arange(3)), Recorded(x))))
    recorded = Recorded(x)
    for data in (mapped, recorded):
        found = list(operations.current.batches(data, ROWS))
        np.testing.assert_array_equal(np.concatenate(found), x)
    assert "minicnn-batch" in recorded.threads and not waiting()


def test_one_batch_is_prepared_and_no_more(two_threads):
    recorded = Recorded(np.arange(9.0))
    batches = operations.current.batches(recorded, ROWS)
    assert recorded.reads == []
    next(batches)
    deadline = time.monotonic() + 10
    while waiting() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert recorded.reads == ROWS[:2]
    batches.close()
    assert recorded.reads == ROWS[:2] and not waiting()


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_an_error_of_a_batch_reaches_the_caller(two_threads, fails_at):
    batches = operations.current.batches(Recorded(np.arange(9.0), fails_at), ROWS)
    for _ in range(fails_at):
        next(batches)
    with pytest.raises(MemoryError, match="this batch"):
        next(batches)
    assert not waiting() and list(batches) == []


def test_nothing_is_prepared_after_an_error_of_the_training(two_threads, monkeypatch):
    seen = []
    monkeypatch.setattr(Augmentation, "change", lambda self, x, drawn: seen.append(len(x)) or x)
    x, y = small_set(30)

    class Fails(mc.Callback):
        def on_batch_end(self, batch, loss):
            raise ValueError("mine")

    model = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="mine"):
        model.fit(x, y, batch_size=5, verbose=False, callbacks=[Fails()], augmentation=Augmentation(shift=1))
    assert not waiting() and len(seen) <= 2


def test_where_no_thread_can_start_the_batch_is_prepared_when_it_is_needed(monkeypatch):
    def refuses(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    assert list(prefetch(abs, [-1, -2, -3])) == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_prepares_the_batches_itself():
    began, release = threading.Event(), threading.Event()
    parent = os.getpid()

    def read(number):
        if number and os.getpid() == parent:
            began.set()
            release.wait(10)
        return number

    numbers = prefetch(read, [0, 1, 2])
    assert next(numbers) == 0
    began.wait(10)
    child = os.fork()
    if not child:
        os._exit(0 if list(numbers) == [1, 2] else 1)
    release.set()
    assert os.waitpid(child, 0)[1] == 0
    assert list(numbers) == [1, 2]


def test_the_bits_do_not_depend_on_the_thread(monkeypatch):
    found = []
    for count in (1, 2):
        monkeypatch.setattr("minicnn.backends.numpy.thread_count", lambda count=count: count)
        found.append(trained()[0])
    assert same(*found)


# The contact sheet


@pytest.mark.parametrize("shape", [(7, 1, 8, 6), (7, 3, 6, 8), (7, 8, 8)])
def test_the_contact_sheet_shows_the_images_that_are_trained_on(shape, rng):
    pytest.importorskip("matplotlib")
    x = pixels(rng, shape, "uint8")
    change = Augmentation(shift=1, erase=0.5)
    figure = mc.plots.augmented(change, x, count=2, epochs=3)
    images = x if x.ndim == 4 else x[:, None]
    columns = [images, *(change(images, epoch) for epoch in range(3))]
    expected = [column[row] / 255 for row in range(2) for column in columns]
    for axes, image in zip(figure.axes, expected, strict=True):
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_allclose(shown, image.transpose(1, 2, 0) if len(image) == 3 else image[0])
    mixed = mc.plots.augmented(Augmentation(mixup=1), x[:1], count=5, epochs=1)  # an image with itself
    np.testing.assert_allclose(*(np.asarray(axes.images[0].get_array()) for axes in mixed.axes), atol=1 / 255)
    for augmentation, wrong in ((None, x), (change, x[0, 0]), (change, x[:0])):
        with pytest.raises(mc.InputError):
            mc.plots.augmented(augmentation, wrong)
