"""Callbacks with Keras's names and meaning."""

import csv
import signal

import numpy as np
import pytest
import strict_backend
from test_training import small_model, small_set

import minicnn as mc
from minicnn.backends.cupy import CupyOperations
from minicnn.core.layer import kept_arrays


def run(callback, losses, optimizer=None):
    """Drive a callback by hand through epochs with these validation losses; the learning rates and the last epoch."""
    model = small_model()
    optimizer = optimizer or mc.SGD(1.0)
    callback.model, callback.optimizer = model, optimizer
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_begin(epoch)
        rates.append(optimizer.learning_rate)
        for parameter in model.parameters().values():
            parameter.value[...] = epoch
        callback.on_epoch_end(epoch, {"loss": loss, "val_loss": loss, "val_accuracy": 1 - loss})
        if model.stop_training:
            break
    callback.on_train_end()
    return model, rates, epoch


def first_weight(model):
    return float(model.parameters()["dense_1.weight"].value.flat[0])


def test_early_stopping_waits_for_its_patience():
    early = mc.EarlyStopping(patience=2)
    _, _, epoch = run(early, [0.5, 0.4, 0.45, 0.41, 0.3])
    assert epoch == early.stopped_epoch == 3
    assert early.best == 0.4


def test_early_stopping_counts_from_the_last_better_one():
    early = mc.EarlyStopping(patience=2)
    _, _, epoch = run(early, [0.5, 0.6, 0.4, 0.6, 0.3, 0.2])
    assert epoch == 5 and early.stopped_epoch is None


def test_early_stopping_restores_the_best_weights():
    model, _, _ = run(mc.EarlyStopping(patience=1, restore_best_weights=True), [0.5, 0.4, 0.6])
    assert first_weight(model) == 1
    model, _, _ = run(mc.EarlyStopping(patience=1), [0.5, 0.4, 0.6])
    assert first_weight(model) == 2


def test_early_stopping_knows_that_accuracy_grows():
    _, _, epoch = run(mc.EarlyStopping("val_accuracy", patience=1), [0.5, 0.4, 0.3, 0.35, 0.2])
    assert epoch == 3


def test_early_stopping_needs_more_than_min_delta():
    _, _, epoch = run(mc.EarlyStopping(patience=2, min_delta=0.1), [0.5, 0.45, 0.41, 0.1])
    assert epoch == 2


def test_reduce_learning_rate_on_plateau():
    plateau = mc.ReduceLROnPlateau(factor=0.5, patience=2, min_lr=0.2)
    _, rates, _ = run(plateau, [0.5] * 9)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]


def test_reduce_learning_rate_rests_after_lowering():
    _, rates, _ = run(mc.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=2), [0.5] * 6)
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_reduce_learning_rate_refuses_a_schedule():
    with pytest.raises(mc.InputError, match="StepDecay"):
        run(mc.ReduceLROnPlateau(), [0.5], mc.SGD(mc.StepDecay(0.1, every=10, factor=0.5)))


def test_learning_rate_scheduler():
    scheduler = mc.LearningRateScheduler(lambda epoch, rate: rate if epoch < 2 else rate / 2)
    _, rates, _ = run(scheduler, [0.5] * 4)
    assert rates == [1, 1, 0.5, 0.25]


def test_model_checkpoint_keeps_the_best(tmp_path):
    run(mc.ModelCheckpoint(tmp_path / "best.npz", save_best_only=True), [0.5, 0.3, 0.4])
    assert first_weight(mc.load(tmp_path / "best.npz")) == 1


def test_model_checkpoint_names_every_epoch(tmp_path):
    run(mc.ModelCheckpoint(tmp_path / "{epoch}-{val_loss:.1f}.npz"), [0.5, 0.3])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1-0.5.npz", "2-0.3.npz"]
    with pytest.raises(mc.InputError, match="val_los"):
        run(mc.ModelCheckpoint(tmp_path / "{val_los}.npz"), [0.5])


def test_the_best_value_survives_a_resume(tmp_path):
    """The largest loss is taken for the best, and so the first epoch is."""
    x, y = small_set(48)

    def train(epochs, resume):
        best = mc.ModelCheckpoint(tmp_path / "best.npz", monitor="loss", save_best_only=True, mode="max")
        small_model().fit(
            x, y, epochs=epochs, callbacks=[best], verbose=False, checkpoint=tmp_path / "run.npz", resume=resume
        )
        return best

    first = train(2, False)
    (tmp_path / "best.npz").unlink()
    assert train(3, True).best == first.best
    assert not (tmp_path / "best.npz").exists()  # nothing better came, nothing was saved


def test_a_plateau_is_counted_across_a_resume(tmp_path):
    x, y = small_set(48)

    def train(epochs, **options):
        plateau = mc.ReduceLROnPlateau("loss", factor=0.5, patience=3, mode="max", cooldown=1)
        optimizer = mc.SGD(0.01)
        return small_model().fit(
            x, y, epochs=epochs, batch_size=16, optimizer=optimizer, callbacks=[plateau], verbose=False, **options
        )

    whole = train(8)["learning_rate"]
    assert whole == [0.01] * 4 + [0.005] * 3 + [0.0025]
    for epochs in (2, 3, 5, 8):
        found = train(epochs, checkpoint=tmp_path / "run.npz", resume=True)["learning_rate"]
        assert found == whole[:epochs]


def test_csv_logger_and_its_resume(tmp_path):
    x, y = small_set(48)

    def train(epochs, resume):
        return small_model().fit(
            x,
            y,
            epochs=epochs,
            callbacks=[mc.CSVLogger(tmp_path / "log.csv")],
            verbose=False,
            checkpoint=tmp_path / "run.npz",
            resume=resume,
        )

    train(2, False)
    history = train(4, True)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == history["loss"]


def test_csv_logger_does_not_write_a_line_twice_when_its_epoch_is_done_again(tmp_path):
    x, y = small_set(48)

    def train(resume, armed):
        def cut(epoch, logs):
            if armed and epoch == 1:
                raise RuntimeError

        log, cutter = mc.CSVLogger(tmp_path / "log.csv"), mc.LambdaCallback(on_epoch_end=cut)
        path = tmp_path / "run.npz"
        small_model().fit(x, y, epochs=3, callbacks=[log, cutter], verbose=False, checkpoint=path, resume=resume)

    with pytest.raises(RuntimeError):
        train(False, True)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3  # the line is there, the epoch is not over
    train(True, False)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]


def test_csv_logger_appends(tmp_path):
    x, y = small_set(16)
    for _ in range(2):
        small_model().fit(x, y, epochs=1, callbacks=[mc.CSVLogger(tmp_path / "log.csv", append=True)], verbose=False)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_lambda_callback():
    seen = []
    x, y = small_set(16)
    callback = mc.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])))
    history = small_model().fit(x, y, epochs=2, callbacks=[callback], verbose=False)
    assert seen == list(enumerate(history["loss"]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: mc.EarlyStopping(patience=-1),
        lambda: mc.EarlyStopping(mode="best"),
        lambda: mc.EarlyStopping(min_delta=-1.0),
        lambda: mc.ReduceLROnPlateau(factor=1.0),
        lambda: mc.LearningRateScheduler(0.1),
        lambda: mc.LambdaCallback(on_batch_end=3),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(mc.InputError):
        make()


def test_a_callback_cannot_change_the_history():
    x, y = small_set(16)
    history = small_model().fit(
        x, y, epochs=1, callbacks=[mc.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.clear())], verbose=False
    )
    assert np.isfinite(history["loss"][0])


# AveragedWeights


class Batches(mc.Callback):
    """Remembers the weights after each batch, and what a model evaluates to at the end of each epoch."""

    def __init__(self, x=None, y=None):
        self.x, self.y = x, y
        self.weights, self.ends = [], []

    def on_batch_end(self, batch, loss):
        self.weights.append(kept(self.model))

    def on_epoch_end(self, epoch, logs):
        self.ends.append(kept(self.model))
        if self.x is not None:
            loss, accuracy = self.model.evaluate(self.x, self.y)
            assert (logs["val_loss"], logs["val_accuracy"]) == pytest.approx((loss, accuracy))


def kept(model):
    return {name: np.array(mc.to_numpy(item.value)) for name, item in kept_arrays(model)}


def normed_model(dropout=0.0):
    layers = [mc.Conv2D(3, 3), mc.BatchNorm(), mc.ReLU(), mc.Dropout(dropout), mc.Flatten(), mc.Dense(3)]
    return mc.Sequential(layers, input_shape=(1, 8, 8))


def averaged_run(model, epochs=3, **options):
    x, y = small_set(40)
    options = {"batch_size": 16, "verbose": False, "optimizer": mc.Adam(0.01)} | options
    model.fit(x, y, epochs=epochs, **options)
    return kept(model)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_averaged_weights_are_their_exponential_moving_average(decay):
    x, y = small_set(24, seed=1)
    model, batches, plain = normed_model(), Batches(x, y), Batches()
    average, trained = kept(model), normed_model()
    final = averaged_run(model, callbacks=[batches, mc.AveragedWeights(decay)], validation_data=(x, y))
    averaged_run(trained, callbacks=[plain])
    ends = []
    for t, weights in enumerate(plain.weights, start=1):
        d = min(decay, (1 + t) / (10 + t))
        average = {name: d * average[name] + (1 - d) * weights[name].astype("float64") for name in weights}
        if t % 3 == 0:
            ends.append(average)
    for a, b in zip(plain.weights, batches.weights, strict=True):  # the training itself is as without
        assert_same(a, b)
    for a, b in zip([*ends, ends[-1]], [*batches.ends, final], strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_averaged_weights_are_what_other_callbacks_save_and_restore(tmp_path):
    best = mc.EarlyStopping("loss", restore_best_weights=True)
    saver, batches = mc.ModelCheckpoint(tmp_path / "{epoch}.npz"), Batches()
    final = averaged_run(normed_model(), callbacks=[best, saver, mc.AveragedWeights(0.9), batches])
    for epoch, end in enumerate(batches.ends, start=1):
        assert_same(kept(mc.load(tmp_path / f"{epoch}.npz")), end)
    assert_same(final, batches.ends[-1])  # the best epoch is the last one
    # A better loss is never found after the first epoch: its averaged weights return.
    best, batches = mc.EarlyStopping("loss", min_delta=100, patience=5, restore_best_weights=True), Batches()
    final = averaged_run(normed_model(), callbacks=[best, batches, mc.AveragedWeights(0.9)])
    assert_same(final, batches.ends[0])


@pytest.mark.parametrize(("stop_at", "stops_first"), [(1, False), (3, False), (4, True)])
def test_averaged_weights_are_resumed_to_the_same_bits(tmp_path, stop_at, stops_first):
    class Stop(mc.Callback):
        def on_batch_end(self, batch, loss):
            if self.optimizer.steps == stop_at and not resumed:
                raise RuntimeError("stopped")

    def run(epochs=3, decay=0.9, **options):
        callbacks = [mc.AveragedWeights(decay), Stop()]
        return averaged_run(normed_model(0.2), epochs, callbacks=callbacks[:: -1 if stops_first else 1], **options)

    resumed, options = True, {"checkpoint": tmp_path / "run.npz", "resume": True}
    whole, longer = run(), run(4)
    resumed = False
    with pytest.raises(RuntimeError):
        run(**options)
    resumed = True
    assert_same(whole, run(**options))
    assert_same(whole, run(**options))  # the run is complete
    assert_same(longer, run(4, **options))
    with pytest.raises(mc.InputError, match="decay"):
        run(decay=0.8, **options)


@pytest.mark.parametrize("where", ["on_batch_end", "on_epoch_end", "validation"])
def test_a_run_that_ends_early_leaves_the_weights_in_training(where, monkeypatch):
    batches, x, y = Batches(), *small_set(9)

    class Stop(mc.Callback):
        def on_batch_end(self, batch, loss):
            if self.optimizer.steps == 5 and where == "on_batch_end":
                signal.raise_signal(signal.SIGINT)
            if self.optimizer.steps == 5 and where == "validation":
                monkeypatch.setattr("minicnn.training.loop._measure", interrupted)

        def on_epoch_end(self, epoch, logs):
            if epoch == 1 and where == "on_epoch_end":
                raise KeyboardInterrupt

    def interrupted(*arguments):
        raise KeyboardInterrupt

    model = normed_model()
    with pytest.raises(KeyboardInterrupt):
        averaged_run(model, callbacks=[batches, mc.AveragedWeights(0.9), Stop()], validation_data=(x, y))
    assert_same(kept(model), batches.weights[-1])


def test_what_is_not_the_state_of_an_average_is_refused():
    averaged = mc.AveragedWeights(0.9)
    averaged.model = normed_model()
    averaged.on_train_begin()
    state = averaged.state_dict()
    name = next(name for name in state if name != "t")
    for changed in ({"t": -1}, {"t": 1.0}, {name: state[name][:1]}, {name: state[name].astype("float64")}, {"x": 1}):
        with pytest.raises((ValueError, AttributeError)):
            averaged.load_state_dict(state | changed)
    averaged.load_state_dict(state)
    for decay in (1, -0.1, "0.9", True, None):
        with pytest.raises(mc.InputError):
            mc.AveragedWeights(decay)


def test_frozen_weights_stay_what_they_are():
    model = normed_model()
    model.layers[0].trainable = False
    before = kept(model)["conv2d_1.weight"]
    np.testing.assert_array_equal(averaged_run(model, callbacks=mc.AveragedWeights(0.9))["conv2d_1.weight"], before)


def test_a_number_without_axes_is_averaged_and_a_large_array_in_blocks(monkeypatch):
    class Scale(mc.Layer):
        def __init__(self):
            self.factor = mc.Parameter(np.array(1.0, "float32"))

        def forward(self, x, training=False):
            def backward(dy):
                self.factor.add_gradient((dy * x).sum())
                return dy * self.factor.value

            return x * self.factor.value, backward

    found = []
    for size in (2**18, 5):
        monkeypatch.setattr("minicnn.training.callbacks.AVERAGED", size)
        model = mc.Sequential([Scale(), mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
        found.append(averaged_run(model, callbacks=mc.AveragedWeights(0.9)))
    assert_same(*found)
    assert found[0]["scale_1.factor"] != 1


def test_averaged_weights_on_the_stand_in_for_the_device(monkeypatch):
    monkeypatch.setattr("minicnn.backends.cupy.cublas.find_cublas", lambda xp: strict_backend.cublas)
    monkeypatch.setattr("minicnn.backends.cupy.recording.find_cublas", lambda xp: strict_backend.cublas)
    found = []
    for backend in ("plain", CupyOperations(strict_backend.strict)):
        mc.use(backend)
        try:
            options = {"optimizer": mc.SGD(0.1), "validation_split": 0.25}
            found.append(averaged_run(normed_model(), callbacks=mc.AveragedWeights(0.9), **options))
        finally:
            mc.use("numpy")
    for name in found[0]:
        np.testing.assert_allclose(*(arrays[name] for arrays in found), rtol=1e-3, atol=1e-4)
