"""Output sizes, columns and the border; that columns hold the right pixels is in test_oracles.py."""

import math

import numpy as np
import pytest
from layer_cases import built

import minicnn as mc
from minicnn.backends.numpy import columns
from minicnn.backends.numpy.columns import add_tile_columns, tile_columns, tiles, tiles_for_cores
from minicnn.core.im2col import Window, output_size, pad


def places_by_walking(size, kernel, stride, before, after, dilation):
    """Put the window down at every stride and count how often it lies inside."""
    taps = [tap * dilation for tap in range(kernel)]
    return sum(
        all(0 <= place + tap < before + size + after for tap in taps)
        for place in range(0, before + size + after, stride)
    )


def test_the_output_size_is_the_number_of_places():
    for size in range(1, 9):
        for kernel in range(1, 5):
            for stride in range(1, 4):
                for before, after in ((0, 0), (1, 1), (0, 2), (3, 1)):
                    for dilation in (1, 2, 3):
                        expected = places_by_walking(size, kernel, stride, before, after, dilation)
                        assert output_size(size, kernel, stride, before, after, dilation) == expected


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        ("valid", ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3))),
        ("same", ((1, 1), (0, 1))),
    ],
)
def test_every_form_of_padding(padding, pads):
    assert Window((3, 2), padding=padding).pads(6, 6) == pads


def test_same_gives_a_place_for_every_stride_and_the_odd_pixel_after():
    for size in range(1, 12):
        for kernel in range(1, 6):
            for stride in range(1, 4):
                for dilation in (1, 2):
                    window = Window(kernel, stride, "same", dilation)
                    (before, after), _ = window.pads(size, size)
                    assert window.output_shape(size, size)[0] == -(-size // stride)
                    assert after - before in (0, 1)


WINDOWS = [
    Window(3, 1, 1),
    Window((2, 3), (2, 1)),
    Window(3, 2, 1),
    Window((3, 2), 1, (2, 1), (2, 3)),
    Window(1, 3),
    Window((3, 1), 1, ((0, 2), (0, 1))),
]


@pytest.mark.parametrize("budget", [2000, 4500, 10_000, 2**20])
@pytest.mark.parametrize("window", WINDOWS)
def test_tiles_cover_the_output_once_and_keep_the_budget(window, budget, rng, monkeypatch):
    monkeypatch.setattr(mc.im2col, "BUDGET", budget)
    monkeypatch.setenv("MINICNN_THREADS", "2")
    x = rng.normal(size=(2, 3, 7, 9))
    image = x.transpose(1, 2, 3, 0)[None]
    seen = np.zeros(window.output_shape(7, 9), int)
    work = 5 * 3 * math.prod(window.kernel_size)
    for rows, cols in tiles(x.shape, window, work, x.dtype.itemsize):
        seen[rows, cols] += 1
        columns = tile_columns(image, window, window.pads(7, 9), rows, cols)
        assert 4 * columns.nbytes <= budget  # two of them on each of two cores
    assert (seen == 1).all()


@pytest.mark.parametrize("strips", [2**13, columns.STRIPS])
@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("least", [0, 2**30])
def test_tiles_for_cores_cover_the_output_once_and_give_each_core_as_much(window, least, cores, strips, monkeypatch):
    """Cut along the width or not."""
    monkeypatch.setenv("MINICNN_THREADS", str(cores))
    monkeypatch.setattr(columns, "STRIPS", strips)
    monkeypatch.setattr(columns, "WIDTH", 64)
    monkeypatch.setattr(columns, "PARALLEL_WORK", 0)
    monkeypatch.setattr(columns, "NARROW_WORK", least)
    for H in range(8, 32):
        seen, rows_of = np.zeros(window.output_shape(H, 29), int), np.zeros(cores, int)
        found = tiles_for_cores((16, 3, H, 29), window, 10, 4)
        for rows, cols in found:
            seen[rows, cols] += 1
        assert (seen == 1).all()
        heights = [rows.stop - rows.start for rows, cols in found if cols.start == 0]
        for index, height in enumerate(heights):  # as the cores take them, if each row takes as long
            rows_of[index % cores] += height
        assert len(seen) < cores or rows_of.max() - rows_of.min() <= 1


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("window", WINDOWS)
def test_the_columns_of_a_tile_are_those_of_im2col(window, groups, rng):
    """In the order kh, c, kw, and back by the adjoint."""
    x = rng.normal(size=(2, 3, 7, 9))
    (KH, KW), (OH, OW) = window.kernel_size, window.output_shape(7, 9)
    expected = mc.im2col.im2col(x, KH if KH == KW else (KH, KW), window.stride, window.padding, window.dilation)
    expected = expected.reshape(groups, 3 // groups, KH, KW, OH, OW, 2)
    image, padded = (
        array.transpose(1, 2, 3, 0).reshape(groups, 3 // groups, *array.shape[2:], 2)
        for array in (x, pad(x, window.pads(7, 9)))
    )
    for rows, cols in ((slice(0, OH), slice(0, OW)), (slice(OH - 2, OH), slice(1, OW - 1))):
        columns = tile_columns(image, window, window.pads(7, 9), rows, cols)
        part = expected[..., rows, cols, :].transpose(0, 4, 2, 3, 1, 5, 6)  # (G, rows, KH, KW, C/G, cols, N)
        np.testing.assert_array_equal(columns, part.reshape(columns.shape))
        votes, back = rng.normal(size=columns.shape), np.zeros(padded.shape)
        add_tile_columns(votes, back, window, rows, cols)
        assert np.isclose((columns * votes).sum(), (padded * back).sum())


def test_neighbouring_rows_share_their_columns_memory(rng):
    image = rng.normal(size=(1, 3, 7, 9, 2))
    columns = tile_columns(image, Window(3), ((0, 0), (0, 0)), slice(0, 5), slice(0, 7))
    assert np.shares_memory(columns[:, 0], columns[:, 1])


def test_pad_puts_the_image_in_its_place(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    padded = pad(x, ((1, 2), (0, 3)), fill=7)
    assert padded.shape == (2, 3, 7, 8)
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)), constant_values=7))
    assert pad(x, ((0, 0), (0, 0))) is x


@pytest.mark.parametrize("side", range(4))
def test_a_border_on_one_side_only(side, rng):
    x, pads = rng.normal(size=(2, 3, 4, 5)), [0, 0, 0, 0]
    pads[side] = 2
    pads = tuple(pads[:2]), tuple(pads[2:])
    np.testing.assert_array_equal(pad(x, pads), np.pad(x, ((0, 0), (0, 0), *pads)))


def test_the_batch_lies_innermost(rng):
    """Whatever the order of the images."""
    image = mc.im2col.col2im(rng.normal(size=(4, 8)), (2, 1, 3, 3), 2)
    x = rng.normal(size=(2, 3, 4, 5))
    for made in (image, pad(x, ((1, 0), (0, 1))), pad(np.asfortranarray(x), ((1, 0), (0, 1)))):
        assert made.transpose(1, 2, 3, 0).flags.c_contiguous


@pytest.mark.parametrize(
    "make",
    [
        lambda: mc.im2col.im2col(np.zeros((1, 1, 3, 3)), 4),
        lambda: mc.im2col.im2col(np.zeros((1, 1, 3, 3)), 2, dilation=3),
        lambda: mc.im2col.im2col(np.zeros((1, 1, 3, 3)), (4, 1)),
        lambda: mc.im2col.im2col(np.zeros((1, 1, 3, 3)), (1, 4)),
        lambda: mc.im2col.im2col(np.zeros((1, 3, 3)), 2),
        lambda: mc.im2col.col2im(np.zeros((4, 5)), (1, 1, 3, 3), 2),
        lambda: Window(0),
        lambda: Window((3, 3, 3)),
        lambda: Window(2.5),
        lambda: Window(True),
        lambda: Window(3, stride=0),
        lambda: Window(3, dilation=(1, 0)),
        lambda: Window(3, padding=-1),
        lambda: Window(3, padding="full"),
        lambda: Window(3, padding=(1, 2, 3)),
        lambda: Window(3, padding=((1, 2), 3)),
    ],
)
def test_windows_that_cannot_be_are_refused(make):
    with pytest.raises(mc.InputError):
        make()


def test_a_kernel_too_large_is_told_with_both_sizes():
    layer = mc.Conv2D(2, (5, 3), padding=((0, 1), (0, 0)), dilation=2)
    with pytest.raises(mc.InputError, match=r"9 x 5.*7 x 8"):
        layer.build((1, 6, 8))


@pytest.mark.usefixtures("by_tiles")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("budget", [4 * 1152, 4 * 3000, 4 * 9000])
def test_a_convolution_in_tiles_is_the_convolution_at_once(budget, groups, monkeypatch, rng):
    """One place's columns take 1152 bytes here, a row's 4608: tiles of one place, of pieces of a row, of rows."""
    monkeypatch.setenv("MINICNN_THREADS", "2")
    layer = built(lambda: mc.Conv2D(4, 3, stride=2, padding=1, groups=groups), (4, 9, 8))
    x, dy = rng.normal(size=(4, 4, 9, 8)), rng.normal(size=(4, 4, 5, 4))
    results, counts = [], []
    for limit in (budget, 2**30):
        monkeypatch.setattr(mc.im2col, "BUDGET", limit)
        counts.append(len(tiles(x.shape, layer.window, layer.weight.value.size, x.dtype.itemsize)))
        y, backward = layer.forward(x)
        dx = backward(dy)
        results.append((y, dx, layer.weight.grad, layer.bias.grad))
        layer.weight.clear_gradient()
        layer.bias.clear_gradient()
    assert counts[0] > counts[1] == 1
    for small, whole in zip(*results, strict=True):
        np.testing.assert_allclose(small, whole, atol=1e-12)


def test_what_passes_the_budget_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setenv("MINICNN_THREADS", "1")
    monkeypatch.setattr(mc.im2col, "BUDGET", 2**20)
    x = np.zeros((20_000, 1, 4, 4), "float32")  # 9 taps of 20,000 images: 0.69 MiB a place
    with pytest.raises(mc.InputError, match=r"20000 images.*0\.7 MiB.*0\.5 MiB"):
        built(lambda: mc.Conv2D(2, 3), (1, 4, 4), "float32").forward(x)
    with pytest.raises(mc.InputError, match=r"3 MiB.*1 MiB"):
        mc.im2col.im2col(x, 3)
