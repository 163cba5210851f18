"""fit, evaluate and predict: what is dealt out, counted, shown and refused."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

import minicnn as mc


def small_model(seed=0, dropout=False, **options):
    layers = [mc.Conv2D(3, 3), mc.ReLU(), mc.MaxPool2D(2), mc.Flatten(), mc.Dense(8), mc.Tanh()]
    if dropout:
        layers.append(mc.Dropout(0.3))
    return mc.Sequential([*layers, mc.Dense(3), mc.Softmax()], input_shape=(1, 8, 8), seed=seed, **options)


def small_set(count=50, seed=0):
    """Three classes that differ in where the light is."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.integers(0, 120, size=(count, 1, 8, 8), dtype=np.uint8)
    for label in range(3):
        x[y == label, 0, 2 * label : 2 * label + 3] += 100
    return x, y


class Spy(mc.Sequential):
    """A model that remembers the batches it was trained on."""

    def forward(self, x, training=False):
        if training:
            self.__dict__.setdefault("batches", []).append(np.array(x))
        return super().forward(x, training)


def spy_on(count, batch_size, epochs=1, **options):
    model = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 1, 1))
    x = np.arange(count, dtype="float32").reshape(count, 1, 1, 1) / count
    history = model.fit(
        x, np.arange(count) % 3, epochs=epochs, batch_size=batch_size, optimizer=mc.SGD(0.0), verbose=False, **options
    )
    batches = [np.rint(batch.ravel() * count).astype(int).tolist() for batch in model.batches]
    return batches, history


def test_it_learns_and_returns_the_history():
    x, y = small_set(90)
    history = small_model().fit(
        x, y, epochs=12, batch_size=16, optimizer=mc.Adam(0.01), validation_split=0.2, verbose=False
    )
    names = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history) == names
    assert all(len(values) == 12 for values in history.values())
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    batches, _ = spy_on(23, 5, epochs=2)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 2
    first, second = np.concatenate(batches[:5]).tolist(), np.concatenate(batches[5:]).tolist()
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    # Single images are shuffled, not whole batches that stay together.
    assert not all(batch == list(range(batch[0], batch[0] + len(batch))) for batch in batches)


def test_a_second_fit_goes_on_with_new_orders():
    """Many calls for one epoch each are as good as one call for many epochs."""
    model, optimizer, orders = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 1, 1)), mc.SGD(0.0), []
    x = np.arange(12, dtype="float32").reshape(12, 1, 1, 1)
    for _ in range(3):
        model.batches = []
        model.fit(x, np.arange(12) % 3, epochs=1, batch_size=4, optimizer=optimizer, verbose=False)
        orders.append(tuple(np.concatenate(model.batches).ravel()))
    assert len(set(orders)) == 3
    batches, _ = spy_on(12, 4, epochs=3)
    assert [tuple(np.ravel(batches[3 * epoch : 3 * epoch + 3])) for epoch in range(3)] == orders


def test_without_shuffling_the_order_is_the_given_one():
    batches, _ = spy_on(7, 3, shuffle=False)
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_last_partial_batch_counts_by_its_size():
    """The means are those of all images: with a learning rate of 0, what evaluate gives."""
    x, y = small_set(50)
    model = small_model()
    expected = model.evaluate(x, y)
    history = model.fit(x, y, epochs=1, batch_size=16, optimizer=mc.SGD(0.0), verbose=False)
    np.testing.assert_allclose([history["loss"][0], history["accuracy"][0]], expected, rtol=1e-5)


def test_evaluate_and_predict_do_not_depend_on_the_batches():
    x, y = small_set(50)
    model = small_model(dropout=True)
    probabilities = model.predict(x)
    np.testing.assert_allclose(model.predict(x, batch_size=7), probabilities, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    loss, accuracy = model.evaluate(x, y)
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=7), (loss, accuracy), rtol=1e-5)
    assert accuracy == (probabilities.argmax(axis=1) == y).mean()
    assert loss == pytest.approx(-np.log(probabilities[np.arange(50), y]).mean(), rel=1e-4)


def test_no_set_goes_through_at_once():
    """The memory stays flat, however large the set is."""
    sizes = []

    class Counting(mc.Sequential):
        def forward(self, x, training=False):
            sizes.append(len(x))
            return super().forward(x, training)

    x, y = small_set(1300)
    model = Counting([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    model.predict(x)
    model.evaluate(x, y)
    model.fit(x[:3], y[:3], epochs=1, batch_size=1, validation_data=(x, y), verbose=False)
    assert sizes == [512, 512, 276] * 2 + [1, 1, 1] + [512, 512, 276]


def test_the_loss_alone_is_told_where_there_is_no_accuracy(rng):
    x = rng.normal(size=(40, 4)).astype("float32")
    target = x @ rng.normal(size=(4, 2)).astype("float32")
    model = mc.Sequential([mc.Dense(2)], input_shape=(4,))
    history = model.fit(
        x,
        target,
        epochs=40,
        batch_size=8,
        optimizer=mc.Adam(0.05),
        loss=mc.MeanSquaredError(),
        validation_split=0.25,
        verbose=False,
    )
    assert "accuracy" not in history and "val_accuracy" not in history
    assert history["val_loss"][-1] < 0.1 * history["val_loss"][0]
    assert model.evaluate(x, target, loss=mc.MeanSquaredError())[1] is None


@pytest.mark.parametrize("labels", ["indices", "one-hot"])
def test_the_validation_split_is_shuffled_and_stratified(labels):
    """Images ordered by class, as the lab had them: each class gives its tenth."""
    y = np.repeat(np.arange(3), [20, 40, 60])
    x = np.arange(120, dtype="float32").reshape(120, 1, 1, 1) / 120
    model = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 1, 1))
    given = y if labels == "indices" else np.eye(3)[y]
    model.fit(x, given, epochs=1, batch_size=120, optimizer=mc.SGD(0.0), validation_split=0.1, verbose=False)
    trained = np.rint(model.batches[0].ravel() * 120).astype(int)
    held_out = np.setdiff1d(np.arange(120), trained)
    assert len(trained) == 108
    assert np.bincount(y[held_out]).tolist() == [2, 4, 6]
    assert held_out.tolist() != sorted(set(range(18, 20)) | set(range(56, 60)) | set(range(114, 120)))


def run_twice(first_seed, second_seed):
    x, y = small_set()
    models = [small_model(seed, dropout=True) for seed in (first_seed, second_seed)]
    for model in models:
        model.fit(x, y, epochs=2, batch_size=8, optimizer=mc.Adam(), verbose=False)
        np.random.default_rng(99).random(10)  # what runs in between must not matter
    return [[p.value for p in model.parameters().values()] for model in models]


def test_one_seed_makes_a_run_repeatable_to_the_bit():
    for a, b in zip(*run_twice(4, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(*run_twice(4, 5), strict=True))


def test_the_history_as_csv_and_json(tmp_path):
    x, y = small_set()
    history = small_model().fit(x, y, epochs=3, batch_size=16, verbose=False)
    rows = list(csv.DictReader(io.StringIO(history.to_csv(tmp_path / "h.csv"))))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert (tmp_path / "h.csv").read_text() == history.to_csv()
    history.to_json(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text()) == dict(history)


PROGRAM = """
import numpy as np, minicnn as mc
model = mc.Sequential([mc.Flatten(), mc.Dense(50), mc.ReLU(), mc.Dense(3)], input_shape=(1, 8, 8))
model.fit(np.zeros((3000, 1, 8, 8), "float32"), np.zeros(3000, int), epochs=2, batch_size=2, verbose=VERBOSE)
"""


def test_a_plain_line_an_epoch_where_the_output_is_no_terminal():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("VERBOSE", "True")], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and done.stderr == ""
    assert "1/2" in lines[0] and "loss" in lines[0] and "accuracy" in lines[0]


def test_silence_if_not_verbose():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("VERBOSE", "False")], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_a_bar_on_a_terminal():
    """Loss, accuracy, images a second and the time left; an epoch's bar stays on one line."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.replace("VERBOSE", "True")], stdout=child, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not data:
            break
        shown += data
    os.close(parent)
    assert process.wait() == 0
    text = shown.decode()
    for part in ("epoch 1/2", "epoch 2/2", "loss=", "accuracy=", "images/s", "100%"):
        assert part in text
    assert re.search(r"<\d\d:\d\d, ", text)  # the time left
    assert text.count("\n") <= 4


@pytest.mark.parametrize("when", ["on_train_begin", "on_epoch_begin"])
def test_a_callback_can_stop_before_the_first_batch(when):
    model = small_model()

    def stop(*_):
        model.stop_training = True

    x, y = small_set(12)
    before = [p.value.copy() for p in model.parameters().values()]
    history = model.fit(x, y, epochs=3, batch_size=4, callbacks=mc.LambdaCallback(**{when: stop}), verbose=False)
    assert history == {}
    for a, b in zip(before, model.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b.value)


def test_a_callback_sees_every_batch_and_can_stop():
    seen = []

    class StopAfter(mc.Callback):
        def on_train_begin(self):
            seen.append("begin")

        def on_epoch_begin(self, epoch):
            seen.append(f"epoch {epoch}")

        def on_batch_end(self, batch, loss):
            seen.append(batch)
            assert np.isfinite(float(loss))
            if len(seen) == 8:
                self.model.stop_training = True

        def on_epoch_end(self, epoch, logs):
            seen.append(sorted(logs)[:2])

        def on_train_end(self):
            seen.append("end")

    x, y = small_set(48)
    history = small_model().fit(x, y, epochs=5, batch_size=16, callbacks=[StopAfter()], verbose=False)
    ended = ["accuracy", "learning_rate"]
    assert seen == ["begin", "epoch 0", 0, 1, 2, ended, "epoch 1", 0, ended, "end"]
    assert len(history["loss"]) == 2


GOOD_X, GOOD_Y = small_set(12)
REFUSED = {
    "no channel axis": (GOOD_X[:, 0], GOOD_Y, "channel axis"),
    "no batch axis": (GOOD_X[0], GOOD_Y, "batch axis"),
    "channels last": (GOOD_X.transpose(0, 2, 3, 1), GOOD_Y, "transpose"),
    "integers": (GOOD_X.astype(int), GOOD_Y, "int64"),
    "a list": (GOOD_X.tolist(), GOOD_Y, "list"),
    "NaN": (np.where(np.arange(12)[:, None, None, None] == 7, np.nan, GOOD_X / 255.0), GOOD_Y, "7"),
    "infinity": (np.where(np.arange(12)[:, None, None, None] == 3, np.inf, GOOD_X / 255.0), GOOD_Y, "3"),
    "an empty set": (GOOD_X[:0], GOOD_Y[:0], "empty"),
    "other lengths": (GOOD_X, GOOD_Y[:-1], "11"),
    "no labels": (GOOD_X, None, "labels"),
    "labels that make no array": (GOOD_X, [[0], [1, 2]] * 6, "labels"),
    "a label too large": (GOOD_X, np.where(GOOD_Y == 2, 3, GOOD_Y), "3"),
    "a negative label": (GOOD_X, GOOD_Y - 1, "-1"),
    "float labels": (GOOD_X, GOOD_Y.astype(float), "float64"),
    "rows that add up to 2": (GOOD_X, np.eye(3)[GOOD_Y] * 2, "add up"),
}


@pytest.mark.parametrize(("x", "y", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_before_any_work(x, y, named):
    model = small_model()
    before = [p.value.copy() for p in model.parameters().values()]
    with pytest.raises(mc.InputError, match=named):
        model.fit(x, y, epochs=1, verbose=False)
    for a, b in zip(before, model.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "1.5"),
        ({"validation_split": 1.0}, "between 0 and 1"),
        ({"validation_split": -0.1}, "between 0 and 1"),
        ({"validation_split": "0.1"}, "'0.1'"),
        ({"validation_split": 0.5, "validation_data": (GOOD_X, GOOD_Y)}, "not both"),
        ({"validation_data": (GOOD_X, GOOD_Y + 1)}, "label 3"),
        ({"validation_data": GOOD_X}, r"pair \(x, y\)"),
        ({"validation_data": (GOOD_X, GOOD_Y, GOOD_Y)}, r"pair \(x, y\)"),
        ({"callbacks": [print]}, "EarlyStopping"),
        ({"callbacks": print}, "EarlyStopping"),
        ({"callbacks": mc.EarlyStopping}, r"EarlyStopping\(\)"),
        ({"callbacks": ["early stopping"]}, "'early stopping'"),
        ({"callbacks": [mc.EarlyStopping("val_loss")]}, "val_loss"),
        ({"resume": True}, "checkpoint"),
        ({"optimizer": "adam"}, r"Adam\(0.001\), got 'adam'"),
        ({"optimizer": mc.Adam}, r"Adam\(0.001\), got <class"),
        ({"loss": "mse"}, "'mse'"),
        ({"loss": mc.SoftmaxCrossEntropy}, r"SoftmaxCrossEntropy\(\), got <class"),
        ({"loss": lambda outputs, labels: 0}, "lambda"),
        ({"loss": mc.MeanSquaredError()}, "Softmax"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(options, named):
    with pytest.raises(mc.InputError, match=named):
        small_model().fit(GOOD_X, GOOD_Y, verbose=False, **options)


def test_no_callbacks_may_be_said_in_every_way():
    for callbacks in (None, (), []):
        assert small_model().fit(GOOD_X, GOOD_Y, epochs=1, callbacks=callbacks, verbose=False)["loss"]


def test_a_closing_softmax_needs_a_loss_of_logits():
    """MeanSquaredError would compare the logits, which is not what `predict` gives."""
    model, targets = small_model(), np.eye(3)[GOOD_Y].astype("float32")
    with pytest.raises(mc.InputError, match="Softmax"):
        model.evaluate(GOOD_X, targets, loss=mc.MeanSquaredError())
    without = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    loss, _ = without.evaluate(GOOD_X, targets, loss=mc.MeanSquaredError())
    assert loss == pytest.approx(((without.predict(GOOD_X) - targets) ** 2).mean(), rel=1e-5)


def test_nothing_of_the_callers_data_is_changed():
    x, y = small_set()
    x, y = x / np.float32(255), y.copy()
    before = x.copy(), y.copy()
    small_model(dropout=True).fit(x, y, epochs=2, batch_size=16, optimizer=mc.SGD(0.1, momentum=0.9), verbose=False)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def labels_with(value, of=GOOD_Y):
    """Rows of soft labels, of which number 7 holds a value."""
    rows = np.eye(3)[of]
    rows[7, 1] = value
    return rows


MASK = np.arange(12) == 7
LOSES_SOMETHING = {
    "NaN in soft labels": (GOOD_X, labels_with(np.nan), "label 7"),
    "masked images": (
        np.ma.array(GOOD_X / 255, mask=np.zeros(GOOD_X.shape, bool) | MASK[:, None, None, None]),
        GOOD_Y,
        "mask",
    ),
    "masked labels": (GOOD_X, np.ma.array(GOOD_Y, mask=MASK), "mask"),
    "objects as images": (np.where(MASK[:, None, None, None], None, GOOD_X), GOOD_Y, "object"),
    "objects as labels": (GOOD_X, np.where(MASK, None, GOOD_Y), "object"),
    "complex images": (GOOD_X + 1j, GOOD_Y, "real"),
    "complex labels": (GOOD_X, labels_with(0) + 1j, "complex"),
    "dates as images": (GOOD_X.astype("datetime64[s]"), GOOD_Y, "datetime64"),
    "dates as labels": (GOOD_X, GOOD_Y.astype("datetime64[s]"), "datetime64"),
    "a number too large for float32": (np.where(MASK[:, None, None, None], 1e39, GOOD_X / 255), GOOD_Y, "image 7"),
}


@pytest.mark.parametrize(("x", "y", "named"), LOSES_SOMETHING.values(), ids=LOSES_SOMETHING)
def test_no_array_silently_loses_something(x, y, named):
    model = small_model()
    pair = {"validation_data": (x, y)}
    for call in (
        lambda: model.fit(x, y, epochs=1, verbose=False),
        lambda: model.evaluate(x, y),
        lambda: model.fit(GOOD_X, GOOD_Y, epochs=1, verbose=False, **pair),
    ):
        with pytest.raises(mc.InputError, match=named):
            call()


def test_targets_that_are_not_finite_are_refused_by_index():
    class Absolute(mc.losses.Loss):
        def compute(self, outputs, labels):
            return abs(outputs - labels).mean(), np.sign(outputs - labels) / outputs.size

    x, y = np.ones((9, 4), "float32"), np.zeros((9, 2))
    y[5, 1] = np.inf
    model = mc.Sequential([mc.Dense(2)], input_shape=(4,))
    for loss in (mc.MeanSquaredError(), Absolute()):
        for bad in (y, np.where(np.isinf(y), np.nan, y), np.where(np.isinf(y), 1e39, y)):
            with pytest.raises(mc.InputError, match="label 5"):
                model.fit(x, bad, loss=loss, verbose=False)
            with pytest.raises(mc.InputError, match="label 5"):
                model.evaluate(x, bad, loss=loss)
    zeros = np.zeros((9, 2))
    for bad in (zeros.astype(object), zeros.astype("datetime64[s]"), zeros + 1j):
        with pytest.raises(mc.InputError, match=re.escape(str(bad.dtype))):
            model.evaluate(x, bad, loss=Absolute())


def test_the_gradient_check_and_a_bare_loss_refuse_masked_values():
    masked = np.ma.array(np.ones((2, 3)), mask=[[0, 0, 1], [0, 0, 0]])
    with pytest.raises(mc.InputError, match="1 masked value"):
        mc.gradcheck.check(mc.Tanh(), masked)
    with pytest.raises(mc.InputError, match="1 masked value"):
        mc.MeanSquaredError()(np.ones((2, 3)), masked)


def test_a_masked_array_without_masked_values_and_a_matrix_are_arrays():
    x, y = GOOD_X / np.float32(255), GOOD_Y
    flat = mc.Sequential([mc.Dense(3)], input_shape=(64,))
    expected = small_model().fit(x, y, epochs=1, verbose=False)["loss"]
    assert small_model().fit(np.ma.array(x), np.ma.array(y), epochs=1, verbose=False)["loss"] == expected
    matrix = x.reshape(12, 64).view(np.matrix)
    np.testing.assert_array_equal(flat.predict(matrix), flat.predict(np.asarray(matrix)))
    assert type(flat.predict(matrix)) is np.ndarray


def test_integers_are_converted_as_the_message_says():
    """Pixels stay what they were: what uint8 gives, not numbers up to 255."""
    model = small_model()
    with pytest.raises(mc.InputError) as caught:
        model.predict(GOOD_X.astype(int))
    assert "x.astype('uint8')" in str(caught.value)
    with pytest.raises(mc.InputError, match="65535"):
        model.predict(GOOD_X.astype(int) * 0 + 65535)


PIXELS = GOOD_X.astype("float32")


def test_images_on_another_scale_than_the_networks_are_warned_of():
    with pytest.warns(UserWarning, match="255"):
        small_model().fit(PIXELS, GOOD_Y, epochs=1, verbose=False)
    with pytest.warns(UserWarning, match="255"):
        small_model().predict(PIXELS)  # as a loaded model: what it learned from is not known
    model = small_model()
    model.fit(GOOD_X, GOOD_Y, epochs=1, verbose=False)
    for call in (
        lambda: model.predict(PIXELS),
        lambda: model.evaluate(PIXELS, GOOD_Y),
        lambda: model.fit(GOOD_X, GOOD_Y, epochs=1, verbose=False, validation_data=(PIXELS, GOOD_Y)),
        lambda: model.predict(-PIXELS),
    ):
        with pytest.warns(UserWarning, match="learned from"):
            call()
    with pytest.warns(UserWarning):
        model.fit(PIXELS, GOOD_Y, epochs=1, verbose=False)
    with pytest.warns(UserWarning, match="uint8"):
        model.predict(GOOD_X)
    model.predict(PIXELS)  # no warning: what it learned from


def test_a_scale_that_may_be_right_is_not_warned_of(rng):
    model = small_model()
    normal = rng.normal(size=(12, 1, 8, 8))
    for x in (GOOD_X, GOOD_X / 255, normal, GOOD_X / 255 * 2 - 1, GOOD_X // 16 / 1.0):
        model.fit(x, GOOD_Y, epochs=1, verbose=False)
        model.predict(0.1 * x.astype(float) if x.dtype != np.uint8 else x)
        small_model().evaluate(x, GOOD_Y)
    table = mc.Sequential([mc.Dense(3)], input_shape=(2,))
    table.fit(np.array([[20.0, 1.0], [90.0, 0.0]]), np.array([0, 1]), epochs=1, verbose=False)


def test_channels_last_is_warned_of():
    layers = [mc.ReLU(), mc.Conv2D(2, 3, padding="same"), mc.Flatten(), mc.Dense(3)]
    with pytest.warns(UserWarning, match=r"input_shape=\(3, 32, 28\).*transpose"):
        mc.Sequential(layers, input_shape=(32, 28, 3))
    with pytest.warns(UserWarning, match="transpose"):
        mc.Sequential([mc.MaxPool2D((2, 1)), mc.Flatten(), mc.Dense(3)]).predict(np.ones((2, 28, 28, 1)))
    for shape in ((3, 32, 32), (1, 28, 28), (4, 8, 3), (64, 7, 1)):
        mc.Sequential([mc.Conv2D(2, 1)], input_shape=shape)
    mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(32, 32, 3))  # no layer reads channels


RATES = {
    "a schedule": (lambda: mc.StepDecay(0.1, every=3, factor=0.5), []),
    "a number": (lambda: 0.1, []),
    "set for each epoch": (lambda: 0.1, [lambda: mc.LearningRateScheduler(lambda epoch, rate: rate / 2)]),
    "lowered after an epoch": (lambda: 0.1, [lambda: mc.ReduceLROnPlateau("loss", min_delta=99.0, patience=1)]),
}


@pytest.mark.parametrize(("rate", "callbacks"), RATES.values(), ids=RATES)
def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(tmp_path, rate, callbacks):
    """In the history, a log, and a run that was stopped after an epoch's last step and resumed."""
    x, y = small_set(32)

    class Steps(mc.SGD):
        def step(self, parameters):
            used.append(self.learning_rate)
            super().step(parameters)

    def run(stop_at=None, **options):
        def stop(batch, loss):
            if len(used) == stop_at:
                signal.raise_signal(signal.SIGINT)

        made = [make() for make in callbacks] + [mc.CSVLogger(tmp_path / "log.csv")]
        watch = mc.LambdaCallback(on_batch_end=stop)
        return small_model().fit(
            x, y, epochs=4, batch_size=16, optimizer=Steps(rate()), verbose=False, callbacks=[*made, watch], **options
        )

    used = []
    history = run()
    assert history["learning_rate"] == used[1::2]
    with open(tmp_path / "log.csv") as file:
        assert [float(row["learning_rate"]) for row in csv.DictReader(file)] == used[1::2]
    first, used = used, []
    with pytest.raises(mc.TrainingInterrupted):
        run(stop_at=4, checkpoint=tmp_path / "run.npz")
    assert run(checkpoint=tmp_path / "run.npz", resume=True)["learning_rate"] == first[1::2]
