"""fit, evaluate and predict: what is dealt out, counted, shown and refused."""

import csv
import fcntl
import io
import json
import os
import pty
import re
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
    history = model.fit(x, np.arange(count) % 3, epochs, batch_size, mc.SGD(0.0), verbose=False, **options)
    batches = [np.rint(batch.ravel() * count).astype(int).tolist() for batch in model.batches]
    return batches, history


def test_it_learns_and_returns_the_history():
    x, y = small_set(90)
    history = small_model().fit(x, y, 12, 16, mc.Adam(0.01), validation_split=0.2, verbose=False)
    names = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history) == names
    assert all(len(values) == 12 for values in history.values())
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9
    assert not history.interrupted


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
        model.fit(x, np.arange(12) % 3, 1, 4, optimizer, verbose=False)
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
    history = model.fit(x, y, 1, 16, mc.SGD(0.0), verbose=False)
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
    model.fit(x[:3], y[:3], 1, 1, validation_data=(x, y), verbose=False)
    assert sizes == [512, 512, 276] * 2 + [1, 1, 1] + [512, 512, 276]


def test_the_loss_alone_is_told_where_there_is_no_accuracy(rng):
    x = rng.normal(size=(40, 4)).astype("float32")
    target = x @ rng.normal(size=(4, 2)).astype("float32")
    model = mc.Sequential([mc.Dense(2)], input_shape=(4,))
    history = model.fit(x, target, 40, 8, mc.Adam(0.05), mc.MeanSquaredError(), validation_split=0.25, verbose=False)
    assert "accuracy" not in history and "val_accuracy" not in history
    assert history["val_loss"][-1] < 0.1 * history["val_loss"][0]
    assert model.evaluate(x, target, mc.MeanSquaredError())[1] is None


@pytest.mark.parametrize("labels", ["indices", "one-hot"])
def test_the_validation_split_is_shuffled_and_stratified(labels):
    """Images ordered by class, as the lab had them: each class gives its tenth."""
    y = np.repeat(np.arange(3), [20, 40, 60])
    x = np.arange(120, dtype="float32").reshape(120, 1, 1, 1) / 120
    model = Spy([mc.Flatten(), mc.Dense(3)], input_shape=(1, 1, 1))
    given = y if labels == "indices" else np.eye(3)[y]
    model.fit(x, given, 1, 120, mc.SGD(0.0), validation_split=0.1, verbose=False)
    trained = np.rint(model.batches[0].ravel() * 120).astype(int)
    held_out = np.setdiff1d(np.arange(120), trained)
    assert len(trained) == 108
    assert np.bincount(y[held_out]).tolist() == [2, 4, 6]
    assert held_out.tolist() != sorted(set(range(18, 20)) | set(range(56, 60)) | set(range(114, 120)))


def run_twice(first_seed, second_seed):
    x, y = small_set()
    models = [small_model(seed, dropout=True) for seed in (first_seed, second_seed)]
    for model in models:
        model.fit(x, y, 2, 8, mc.Adam(), verbose=False)
        np.random.default_rng(99).random(10)  # what runs in between must not matter
    return [[p.value for p in model.parameters().values()] for model in models]


def test_one_seed_makes_a_run_repeatable_to_the_bit():
    for a, b in zip(*run_twice(4, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(*run_twice(4, 5), strict=True))


def test_the_history_as_csv_and_json(tmp_path):
    x, y = small_set()
    history = small_model().fit(x, y, 3, 16, verbose=False)
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
    history = model.fit(x, y, 3, 4, callbacks=mc.LambdaCallback(**{when: stop}), verbose=False)
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
    history = small_model().fit(x, y, 5, 16, callbacks=[StopAfter()], verbose=False)
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
        model.fit(x, y, 1, verbose=False)
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
        assert small_model().fit(GOOD_X, GOOD_Y, 1, callbacks=callbacks, verbose=False)["loss"]


def test_a_closing_softmax_needs_a_loss_of_logits():
    """MeanSquaredError would compare the logits, which is not what `predict` gives."""
    model, targets = small_model(), np.eye(3)[GOOD_Y].astype("float32")
    with pytest.raises(mc.InputError, match="Softmax"):
        model.evaluate(GOOD_X, targets, mc.MeanSquaredError())
    without = mc.Sequential([mc.Flatten(), mc.Dense(3)], input_shape=(1, 8, 8))
    loss, _ = without.evaluate(GOOD_X, targets, mc.MeanSquaredError())
    assert loss == pytest.approx(((without.predict(GOOD_X) - targets) ** 2).mean(), rel=1e-5)


def test_nothing_of_the_callers_data_is_changed():
    x, y = small_set()
    x, y = x / np.float32(255), y.copy()
    before = x.copy(), y.copy()
    small_model(dropout=True).fit(x, y, 2, 16, mc.SGD(0.1, 0.9), verbose=False)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
