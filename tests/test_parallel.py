"""Several ranks train as one process does: the same numbers, the same decisions, the same errors.

Each number of ranks is started once and runs all of `parallel_cases.py`; what it wrote is compared here with one
process that computes every batch in as many pieces, and with one that computes it as usual.
"""

import functools
import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import parallel_cases
import pytest
from parallel_cases import BATCH, EPOCHS, N, data, kept, network, rich, sgd, train

import minicnn as mc
from minicnn.backends.numpy.threads import Meeting, parallel_map
from minicnn.parallel import Ranks, choose, world
from minicnn.parallel.ranks import edges

HERE = pathlib.Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None, reason="needs mpi4py and an MPI: the extra `mpi`"
)
LIMIT = 900  # seconds after which ranks that wait for each other are given up; they take about ten

#: The cases in which one rank differs from the others.
several = pytest.mark.parametrize("found", [2, 3, 4], indirect=True, ids=lambda size: f"{size} ranks")


class Found:
    """What the ranks wrote.

    Attributes:
        size: how many there are.
        folder: where their files are.
        ranks: for each rank {case: {"values": ..., "digest": ...}}.
    """

    def __init__(self, size, folder):
        self.size, self.folder = size, folder
        self.ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(size)]

    def values(self, case):
        """A case's values, which every rank must have."""
        first, *others = [rank[case]["values"] for rank in self.ranks]
        assert all(other == first for other in others), (case, first, others)
        return first

    def arrays(self, case):
        """A case's arrays, whose bits every rank must have."""
        first, *others = [rank[case]["digest"] for rank in self.ranks]
        assert all(other == first for other in others), case
        with np.load(self.folder / f"{case}.npz") as file:
            return dict(file)


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda size: f"{size} ranks")
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    train(None, epochs=1, checkpoint=folder / "alone.npz")
    script = [sys.executable, "-m", "mpi4py", HERE / "parallel_cases.py", folder]
    environment = {name: value for name, value in os.environ.items() if name != "MINICNN_THREADS"}
    done = subprocess.run(
        [MPIEXEC, "-n", str(request.param), *script],
        env=environment | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Found(request.param, folder)


@functools.cache
def one_process():
    model, history, optimizer = train(None)
    return kept(model, optimizer), history


def assert_close(arrays, others):
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        scale = max(abs(others[name]).max(), 1e-3)
        np.testing.assert_allclose(array / scale, others[name] / scale, atol=2e-5, err_msg=name)


def assert_same(arrays, others):
    assert arrays.keys() == others.keys()
    assert [name for name, array in arrays.items() if array.tobytes() != others[name].tobytes()] == []


def assert_close_histories(history, other):
    assert history.keys() == other.keys()
    for name in history.keys() - {"seconds"}:
        np.testing.assert_allclose(history[name], other[name], rtol=1e-5, err_msg=name)


@needs_mpi
class TestOnRanks:
    def test_the_bits_are_those_of_one_process_that_computes_in_pieces(self, found):
        arrays = found.arrays("bits")
        if found.size == 1:
            assert_same(arrays, one_process()[0])
        else:
            assert_same(arrays, in_pieces(found.size))

    def test_the_numbers_are_those_of_one_process_to_rounding(self, found):
        arrays, history = one_process()
        assert_close(found.arrays("bits"), arrays)
        assert_close_histories(found.values("bits"), history)

    def test_twice_the_same_run_has_the_same_bits(self, found):
        assert found.values("again") == []

    def test_so_it_is_on_the_backend_that_readers_read(self, found):
        assert_close(found.arrays("plain"), one_process()[0])
        assert_close_histories(found.values("plain"), one_process()[1])

    def test_callbacks_validation_augmentation_and_clipping_are_as_in_one_process(self, found):
        model, history, _ = train(None, **rich())
        assert len(history["loss"]) == 2  # EarlyStopping ends it
        assert_close_histories(found.values("rich"), history)
        assert_close(found.arrays("rich"), kept(model))

    def test_a_run_that_a_signal_on_one_rank_stops_is_resumed_to_the_same_bits(self, found):
        raised, history = found.values("stopped")
        assert raised == "TrainingInterrupted"
        assert_same(found.arrays("stopped"), found.arrays("bits"))
        whole = found.values("bits")
        assert {k: v for k, v in history.items() if k != "seconds"} == {
            k: v for k, v in whole.items() if k != "seconds"
        }

    def test_a_run_of_one_process_is_continued_by_several(self, found):
        (history, warned), *others = [rank["from one process"]["values"] for rank in found.ranks]
        assert_close(found.arrays("from one process"), one_process()[0])
        assert_close_histories(history, one_process()[1])
        assert len(warned) == (found.size > 1) and all("trained by 1 processes" in text for text in warned)
        assert all(other == [history, []] for other in others)  # rank 0 alone warns

    def test_a_run_of_several_is_continued_by_one(self, found):
        options = {"checkpoint": found.folder / "ranks.npz", "resume": True}
        if found.size == 1:
            model, history, optimizer = train(None, **options)
        else:
            with pytest.warns(UserWarning, match=f"trained by {found.size} processes and is continued by 1"):
                model, history, optimizer = train(None, **options)
        assert_close(kept(model, optimizer), one_process()[0])
        assert_close_histories(history, one_process()[1])

    def test_the_batches_of_a_validation_are_shared_out_and_their_sums_are_exact(self, found):
        shared, alone = found.values("validation")
        assert shared == alone

    def test_so_it_is_with_arrays_on_a_device(self, found):
        model, history, optimizer = train(None, model=network(dropout=0))
        assert_close(found.arrays("device"), kept(model, optimizer))
        assert_close_histories(found.values("device"), history)

    def test_the_norm_that_clips_is_that_of_all_gradients_also_of_rows_that_others_own(self, found):
        model, history, _ = train(None, optimizer=mc.SGD(0.3, momentum=0.9, clip_norm=0.3))
        assert_close(found.arrays("clipped"), kept(model))
        assert_close_histories(found.values("clipped"), history)

    def test_so_it_is_where_two_layers_read_one_wide_weight(self, found):
        model, history, _ = train(None, model=parallel_cases.tied())
        assert_close(found.arrays("tied"), kept(model))
        assert_close_histories(found.values("tied"), history)

    def test_a_warning_of_all_is_shown_by_rank_0_alone(self, found):
        (text,), *others = [rank["warned"]["values"] for rank in found.ranks]
        assert "look like pixels" in text and others == [[]] * (found.size - 1)

    def test_a_callback_may_unfreeze_layers(self, found):
        model, history, _ = train(None, callbacks=[parallel_cases.Unfreeze()])
        assert_close(found.arrays("unfrozen"), kept(model))
        assert_close_histories(found.values("unfrozen"), history)

    def test_the_cores_of_the_machine_are_divided(self, found):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        wanted = None if found.size == 1 else str(max(1, cores // found.size))
        assert [rank["threads"] for rank in found.ranks] == [wanted] * found.size

    @several
    def test_other_data_or_settings_on_one_rank_are_refused_by_all(self, found):
        last = found.size - 1
        for case, where in [
            ("other images", "images.crc32 is"),
            ("other weights", "weights is"),
            ("other settings", "batch_size is 6 on rank 0 and 7 here"),
        ]:
            kind, text = found.values(case)
            assert kind == "InputError" and f"rank {last}: " in text and where in text, text

    @several
    def test_bad_input_of_one_rank_is_an_error_of_all(self, found):
        errors = [rank["bad labels on one"]["values"] for rank in found.ranks]
        assert all(kind == "InputError" and "label 7 is out of range" in text for kind, text in errors)
        assert all(text.startswith(f"rank {found.size - 1}: ") for _, text in errors[:-1])

    @several
    def test_an_error_of_a_callback_is_one_of_all(self, found):
        (kind, text), *others = [rank["callback raises"]["values"] for rank in found.ranks]
        assert (kind, text) == ("ValueError", "of a callback")
        assert others == [["MinicnnError", "rank 0: ValueError: of a callback"]] * (found.size - 1)

    @several
    def test_what_a_callback_cannot_do_is_refused(self, found):
        kind, text = found.values("callback changes weights")
        assert kind == "InputError" and "on_batch_end" in text
        kind, text = found.values("callback adds a layer")
        assert kind == "InputError" and "must not add or replace layers" in text

    @several
    def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_good_weights(self, found):
        kind, text = found.values("not finite")
        assert kind == "DivergenceError" and "batch 3 of epoch 1" in text and "output of notfinite_1" in text, text
        assert found.values("not finite, weights") == []

    def test_after_every_error_the_ranks_still_train_together(self, found):
        assert_same(found.arrays("afterwards"), {k: v for k, v in found.arrays("bits").items() if "memory" not in k})


def in_pieces(W):
    """One process that trains as W ranks do: every layer for one piece of the batch after the other."""
    model, optimizer, loss = network(), sgd(), mc.SoftmaxCrossEntropy()
    x, y = data()
    for _ in range(EPOCHS):
        order = np.random.default_rng([model.seed, optimizer.steps]).permutation(N)
        for start in range(0, N, BATCH):
            batch = order[start : start + BATCH]
            pieces = [batch[a:b] for a, b in itertools.pairwise(edges(len(batch), W)) if b > a]
            outputs, backwards = [model.prepare(x[piece]) for piece in pieces], []
            for layer in model.layers:
                outputs, backward = joint(layer, outputs, len(batch), W)
                backwards.append(backward)
            gradients = []
            for output, piece in zip(outputs, pieces, strict=True):
                _, gradient = loss(output, y[piece])
                gradients.append(gradient * np.float32(len(piece) / len(batch)))
            for backward in reversed(backwards):
                gradients = backward(gradients)
            by_factors = model.layers[8].weight
            for parameter in model.parameters().values():
                if parameter is not by_factors:
                    each = [mc.backends.current().total([gradient]) for gradient in parameter.gradients]
                    parameter.gradients[:] = [add_up(each)]
            optimizer.step(model.parameters())
    return kept(model, optimizer)


def add_up(arrays):
    return functools.reduce(lambda total, array: total + array, arrays)


def joint(layer, pieces, N, W):
    """A layer's outputs for the pieces of a batch of N, and a function of the list of their gradients."""
    if isinstance(layer, mc.BatchNorm):
        return joint_norm(layer, pieces)
    if isinstance(layer, mc.Dropout):
        return joint_dropout(layer, pieces, N)
    if isinstance(layer, mc.Dense) and layer.units == 24:
        return joint_rows(layer, pieces, W)
    passes = [layer.forward(piece, training=True) for piece in pieces]
    outputs, backwards = zip(*passes, strict=True)
    return outputs, lambda dys: [backward(dy) for backward, dy in zip(backwards, dys, strict=True)]


def joint_norm(layer, pieces):
    """Each piece in a thread of its own; they exchange their sums as the ranks do."""

    def together(function, arguments):
        with mock.patch.dict(os.environ, MINICNN_THREADS=str(len(pieces))):
            return parallel_map(function, arguments, Meeting(len(pieces)))

    passes = together(lambda piece: layer.forward(piece, training=True), pieces)
    outputs, backwards = zip(*passes, strict=True)
    return outputs, lambda dys: together(lambda item: item[0](item[1]), zip(backwards, dys, strict=True))


def joint_dropout(layer, pieces, N):
    """The mask of the complete batch, cut as the batch is."""
    random = mc.backends.current().uniform((N, *pieces[0].shape[1:]), (layer.mask_seed.value, layer.step.value))
    layer.step.value += 1
    mask = (random >= layer.rate) * np.float32(1 / (1 - layer.rate))
    masks = np.split(mask, np.cumsum([len(piece) for piece in pieces])[:-1])
    return [x * m for x, m in zip(pieces, masks, strict=True)], lambda dys: [
        dy * m for dy, m in zip(dys, masks, strict=True)
    ]


def joint_rows(layer, pieces, W):
    """Every rank's rows of the weight for the images of all."""
    x, weight, current = np.concatenate(pieces), layer.weight.value, mc.backends.current()
    rows = [slice(a, b) for a, b in itertools.pairwise(edges(len(weight), W))]
    passes = [current.linear(x, weight[part]) for part in rows]
    cuts = np.cumsum([len(piece) for piece in pieces])[:-1]
    y = np.concatenate([y for y, _, _ in passes], axis=1)

    def backward(dys):
        for dy in dys:
            layer.bias.add_gradient(dy.sum(axis=0))
        dy = np.concatenate(dys)
        parts = [
            (to_weight(dy[:, part]), to_input(dy[:, part]))
            for part, (_, to_weight, to_input) in zip(rows, passes, strict=True)
        ]
        layer.weight.add_gradient(np.concatenate([current.total([dweight]) for dweight, _ in parts]))
        return np.split(add_up([dx for _, dx in parts]), cuts)

    return [part + layer.bias.value for part in np.split(y, cuts)], backward


class TestChoose:
    def test_factors_are_chosen_where_they_have_fewer_numbers(self):
        r, c = 120, 400
        crossing = 2 * r * c / (r + c)
        assert choose((r, c), int(crossing), 2) == "factors"
        assert choose((r, c), int(crossing) + 1, 2) == "gradient"

    def test_rows_are_shared_of_wide_weights_that_have_more_rows_than_images(self):
        assert choose((5000, 25088), 32, 2) == "rows"
        assert choose((5000, 25088), 5000, 2) == "factors"
        assert choose((5000, 800), 32, 2) == "factors"  # 4 million numbers: less than WIDE


class TestAlone:
    def test_something_that_is_not_a_communicator_is_refused(self):
        with pytest.raises(mc.InputError, match=r"MPI\.COMM_WORLD, got 'world'"):
            network().fit(*data(), communicator="world")

    def test_a_missing_mpi_is_reported_with_what_brings_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mpi4py", None)
        with pytest.raises(mc.MissingPackageError, match=r"minicnn-numpy\[mpi\]"):
            world()

    def test_a_batch_is_cut_into_pieces_in_order_and_nothing_twice(self):
        for length, size in itertools.product(range(9), range(1, 6)):
            cuts = edges(length, size)
            assert cuts[0] == 0 and cuts[-1] == length and sorted(cuts) == cuts
            pieces = [b - a for a, b in itertools.pairwise(cuts)]
            assert max(pieces) - min(pieces) <= 1

    def test_one_process_alone_decides_everything(self):
        ranks = Ranks()
        assert ranks.send({"a": 1}) == {"a": 1} and ranks.gather_values(3) == [3] and ranks.first(lambda: 4) == 4
        with pytest.raises(KeyError), ranks:
            ranks.together({}.popitem)
