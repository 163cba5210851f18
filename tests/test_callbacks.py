"""Callbacks with Keras's names and meaning."""

import csv

import numpy as np
import pytest
from test_training import small_model, small_set

import minicnn as mc


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
