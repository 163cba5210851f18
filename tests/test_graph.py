"""A recorded step computes the same bits as the step kernel by kernel, whatever changes between two of them."""

import numpy as np
import pytest
import strict_backend
from strict_backend import strict
from test_backend import OPTIMIZERS, device  # noqa: F401, a fixture
from test_training import small_model, small_set

import minicnn as mc
from minicnn.backends.cupy.recording import RecordedStep, can_record

pytestmark = pytest.mark.usefixtures("device")


def trained(optimizer, callbacks=(), model=small_model, count=400, **options):
    """The result of a run of 2 epochs: losses, weights, and how many graphs were launched."""
    x, y = small_set(count)
    model = model()
    strict_backend.launches.clear()
    history = model.fit(
        x, y, epochs=2, batch_size=16, optimizer=optimizer, callbacks=callbacks, verbose=False, **options
    )
    kept = [*model.parameters().values(), *model.states().values()]
    weights = [mc.to_numpy(item.value) for item in kept]
    return history["loss"], history["accuracy"], weights, strict_backend.launches.count("graph")


def assert_same(some, others):
    assert some[:2] == others[:2]
    for a, b in zip(some[2], others[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def by_kernels(monkeypatch):
    """A run kernel by kernel."""

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr("minicnn.backends.cupy.can_record", lambda *_: False)
            found = trained(*arguments, **options)
        assert found[3] == 0
        return found

    return run


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_recorded_run_is_the_run_kernel_by_kernel(make, by_kernels):
    recorded = trained(make())
    # Of 50 batches the first of each epoch is checked, and the first of the others allocates the memory.
    assert recorded[3] == 47
    assert_same(recorded, by_kernels(make()))


def test_batches_of_another_size_are_not_recorded(by_kernels):
    recorded = trained(mc.Adam(), count=391)
    assert recorded[3] == 45
    assert_same(recorded, by_kernels(mc.Adam(), count=391))


def test_soft_labels_are_recorded_too(by_kernels, monkeypatch):
    x, y = small_set(64)
    losses = []
    for records in (True, False):
        monkeypatch.setattr("minicnn.backends.cupy.can_record", can_record if records else lambda *_: False)
        losses.append(
            small_model().fit(x, np.eye(3)[y], epochs=2, batch_size=16, optimizer=mc.Adam(), verbose=False)["loss"]
        )
    assert losses[0] == losses[1]


CHANGES = {
    "the learning rate": lambda model, optimizer: setattr(optimizer, "learning_rate", 0.3),
    "the weight decay": lambda model, optimizer: setattr(optimizer, "weight_decay", 0.1),
    "a setting": lambda model, optimizer: setattr(optimizer, "clip_norm", 0.01),
    "the weights": lambda model, optimizer: setattr(
        model.parameters()["dense_1.weight"], "value", model.parameters()["dense_1.weight"].value * 0.5
    ),
    "the memory": lambda model, optimizer: optimizer.memories.clear(),
    "an array of the memory": lambda model, optimizer: [
        memory.update(m=memory["m"] * 0) for memory in optimizer.memories.values() if "m" in memory
    ],
    "the memory of one parameter": lambda model, optimizer: optimizer.memories.pop(model.layers[0].weight),
    "a layer that is frozen": lambda model, optimizer: setattr(model.layers[4], "trainable", False),
    "a layer that is replaced": lambda model, optimizer: model.layers.__setitem__(5, mc.Sigmoid()),
    "a layer that is added": lambda model, optimizer: model.layers.insert(5, mc.Dense(8)),
    "a layer that cannot be recorded": lambda model, optimizer: model.layers.insert(5, mc.Dropout(0.5, seed=1)),
    "a layer with layers inside": lambda model, optimizer: model.layers.insert(5, mc.Residual([mc.BatchNorm()])),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [lambda: mc.Adam(0.01), lambda: mc.SGD(0.05)], ids=["Adam", "SGD"])
def test_what_a_callback_changes_counts_from_the_next_batch_on(change, make, by_kernels):
    def callbacks():
        class Change(mc.Callback):
            def on_batch_end(self, batch, loss):
                if batch == 12:
                    change(self.model, self.optimizer)

        return [Change()]

    assert_same(trained(make(), callbacks()), by_kernels(make(), callbacks()))


def test_what_a_layer_keeps_is_that_of_a_run_kernel_by_kernel(by_kernels):
    def model():
        model = small_model()
        model.layers.insert(1, mc.BatchNorm())
        return model

    assert_same(trained(mc.SGD(0.05), model=model, count=80), by_kernels(mc.SGD(0.05), model=model, count=80))


def test_a_loss_that_a_callback_keeps_stays(by_kernels):
    def kept(run):
        losses = []

        class Keep(mc.Callback):
            def on_batch_end(self, batch, loss):
                losses.append(loss)

        run(mc.Adam(), [Keep()])
        return [float(loss.get()) for loss in losses]

    assert kept(trained) == kept(by_kernels)


class OwnLayer(mc.Layer):
    def forward(self, x, training=False):
        return x * 1, lambda dy: dy * 1


class OwnRule(mc.SGD):
    pass


class OwnLoss(mc.SoftmaxCrossEntropy):
    pass


class OwnModel(mc.Sequential):
    def forward(self, x, training=False):
        return super().forward(x, training)


def test_only_what_is_the_librarys_own_is_recorded(monkeypatch):
    model, loss, optimizer = small_model(), mc.SoftmaxCrossEntropy(), mc.Adam()
    assert can_record(strict, model, loss, optimizer)
    assert can_record(strict, mc.Sequential([mc.Sequential([mc.Dense(3)])]), loss, optimizer)
    assert not can_record(strict, small_model(dropout=True), loss, optimizer)
    assert not can_record(strict, mc.Sequential([OwnLayer()]), loss, optimizer)
    assert not can_record(strict, mc.Sequential([mc.Sequential([mc.Dropout(0.5)])]), loss, optimizer)
    assert not can_record(strict, OwnModel(model.layers), loss, optimizer)
    assert not can_record(strict, model, OwnLoss(), optimizer)
    assert not can_record(strict, model, loss, OwnRule())
    monkeypatch.setattr("minicnn.backends.cupy.recording.find_cublas", lambda xp: None)  # as on ROCm
    assert not can_record(strict, small_model(), loss, optimizer)


def test_parameters_that_joined_later_are_not_recorded(by_kernels):
    """Adam's numbers depend on t, and a recorded step has one t for all parameters."""

    def callbacks():
        class Unfreeze(mc.Callback):
            def on_train_begin(self):
                self.model.layers[4].trainable = False

            def on_batch_end(self, batch, loss):
                if batch == 12:
                    self.model.layers[4].trainable = True

        return [Unfreeze()]

    recorded = trained(mc.Adam(0.01), callbacks())
    assert 0 < recorded[3] < 12
    assert_same(recorded, by_kernels(mc.Adam(0.01), callbacks()))


@pytest.mark.parametrize("name", ["begin_capture", "end_capture", "first product", "last product"])
def test_a_step_that_cannot_be_recorded_continues_kernel_by_kernel(name, by_kernels, monkeypatch):
    owner, method = (strict_backend, "_gemm") if "product" in name else (strict_backend._Stream, name)
    unbroken, calls = getattr(owner, method), []

    def broken(*arguments, **options):
        if strict_backend.recording is not None or name == "begin_capture":
            calls.append(name)
            if name != "last product" or len(calls) == 8:
                if name == "end_capture":
                    strict_backend.recording = None
                raise RuntimeError("operation not permitted while the stream is capturing")
        return unbroken(*arguments, **options)

    monkeypatch.setattr(owner, method, broken)
    with pytest.warns(UserWarning, match="kernel by kernel: operation not permitted") as caught:
        failed = trained(mc.Adam())
    assert len(caught) == 1 and failed[3] == 0 and strict_backend.recording is None
    assert len(calls) == (8 if name == "last product" else 1)
    assert_same(failed, by_kernels(mc.Adam()))


def test_a_run_that_diverges_gets_its_last_good_weights_back():
    """Batches that are recorded are counted, so that weights are copied as often as without."""

    class Break(mc.Callback):
        def on_batch_end(self, batch, loss):
            if batch == 250:
                self.model.parameters()["dense_1.weight"].value *= float("nan")

    x, y = small_set(4800)
    with pytest.raises(mc.DivergenceError, match="those before batch 201 of epoch 1"):
        small_model().fit(x, y, epochs=1, batch_size=16, callbacks=[Break()], verbose=False)


def test_a_run_that_was_stopped_is_resumed_with_the_same_bits(tmp_path):
    uninterrupted = trained(mc.Adam(), checkpoint=tmp_path / "uninterrupted.npz")
    x, y = small_set(400)
    small_model().fit(
        x, y, epochs=1, batch_size=16, optimizer=mc.Adam(), verbose=False, checkpoint=tmp_path / "stopped.npz"
    )
    assert_same(trained(mc.Adam(), checkpoint=tmp_path / "stopped.npz", resume=True), uninterrupted)


def test_a_recorded_step_is_few_launches(rng):
    model = mc.networks.lenet5()
    step = RecordedStep(mc.backends.current(), model, mc.SoftmaxCrossEntropy(), mc.Adam())
    x, labels = strict.asarray(rng.random((4, 1, 28, 28), dtype="float32")), strict.asarray(np.arange(4))
    for _ in range(3):
        step(x, labels)
    strict_backend.launches.clear()
    strict_backend.copies.clear()
    step(x, labels)
    # the batch and its labels, the two numbers of Adam that change, the graph, and the loss for whoever keeps it
    assert strict_backend.launches == ["copy", "copy", "fill", "fill", "graph", "copy"]
    assert strict_backend.copies == []
