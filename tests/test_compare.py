"""The comparison: saved and resumed trial by trial, its splits, its statistics, its tables and its page."""

import csv
import functools
import gzip
import itertools
import json
import math
import pathlib
import signal
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image

import minicnn as mc
from minicnn.inspect import report

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import compare
from comparison import data, divergence, models, pictures, plan, statistics, store, tables, trials

TWO = "--models=logistic_regression,small_resnet"
TINY = ["--samples=200", "--epochs=1", "--experiment-epochs=1", "--seeds=1", TWO]
TABLE = [*TINY, "--experiments=none", "--models=logistic_regression"]
LIGHT = [*TABLE, "--experiments=permuted", "--seeds=2", "--witnesses=logistic_regression,dense"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small(monkeypatch, cache):
    """A few test letters, drawn once, and a short sweep."""
    monkeypatch.setenv("MINICNN_HOME", str(cache))
    monkeypatch.setattr(data, "read", functools.partial(data.read, test_samples=150))
    monkeypatch.setattr(compare, "DIVERGENCE_STEPS", 4)
    monkeypatch.setattr(divergence, "RATES", (0.01, 10.0))


@pytest.fixture
def trained(monkeypatch):
    """A list of the trials that were trained, and not read from the folder."""
    names = []
    run = trials.run

    def counted(trial, *rest):
        result = run(trial, *rest)
        names.append(trial.name)
        return result

    monkeypatch.setattr(trials, "run", counted)
    return names


def results_of(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


# All of it


def test_everything_once(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert compare.main([*TINY, f"--out={tmp_path / 'out'}", f"--docs={tmp_path / 'docs'}"]) == 0
    printed = capsys.readouterr().out
    titles = [line for line in printed.splitlines() if line.isupper() or ", on synthetic letters" in line]
    assert (
        len([line for line in titles if line.endswith("drawn from the fonts at hand")]) == 9
    )  # the comparison, in short, and seven experiments
    for name in ("report.txt", "table.txt", "table.md", "table.csv"):
        assert "synthetic letters" in (tmp_path / "out" / name).read_text()
    page = (tmp_path / "docs" / "comparison-letters.md").read_text()
    shown = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(shown) == len(pictures.PICTURES)
    for name in shown:
        assert 1000 < (tmp_path / "docs" / name).stat().st_size < 150_000
    assert "python examples/compare.py --samples 200" in page
    answer = page.split("## In short")[1].split("All figures")[0]
    assert [line.split()[1] for line in answer.strip().splitlines()] == [
        "Best",
        "Neighbourhoods",
        "Amount",
        "Learning",
        "The",
    ]
    assert len(page.splitlines()) < 150
    assert str(tmp_path / "out") not in page


def test_verdicts_name_the_number_of_networks(tmp_path, capsys):
    """The table has one seed of each model; where the reference models have several, those are used instead."""
    models = "--models=logistic_regression,dense,dense_falling"
    assert compare.main([*LIGHT, models, f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    one, several = (
        next(line for line in printed.splitlines() if text in line)
        for text in ("these two trained networks (one seed)", "Over 2 seeds")
    )
    assert "t test, Holm's p for 1 pair)" in several and "points (p " in several
    assert one.count("(p ") == one.count(", not told apart") + one.count(", they differ") > 0
    best = next(line for line in printed.splitlines() if "Best on test" in line)
    assert "between these two trained networks Holm's p" in best or "over 2 seeds" in best
    for pair in one.split(": ")[-1].split(";"):  # the two reference models are compared over their seeds only
        assert "dense_falling" in pair


def test_a_rare_colour_of_a_picture_is_not_changed(tmp_path):
    """One small purple ring, for a model with one seed, among all the greys of the letters."""
    pytest.importorskip("matplotlib")
    models = "--models=logistic_regression,dense,dense_falling"
    assert compare.main([*LIGHT, models, "--experiments=moved", f"--out={tmp_path}"]) == 0
    pixels = np.asarray(Image.open(tmp_path / "moved.png").convert("RGB")).reshape(-1, 3).astype(int)
    wanted = [int(pictures.COLOURS["dense_falling"][start : start + 2], 16) for start in (1, 3, 5)]
    assert (np.abs(pixels - wanted).max(axis=1) <= 12).any()


def test_tables_parse_and_agree(tmp_path):
    assert compare.main([*TINY, "--experiments=none", f"--out={tmp_path}"]) == 0
    saved = results_of(tmp_path)
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["logistic_regression", "small_resnet"]
    for row in rows:
        result = saved[f"table-{row['model']}-seed0"]["result"]
        network = getattr(mc.networks, row["model"])()
        assert int(row["parameters"]) == network.count_parameters()
        assert float(row["test_accuracy"]) == result["test_accuracy"] == result["right"].count("1") / 150
        assert float(row["test_low"]) < result["test_accuracy"] < float(row["test_high"])
        assert np.mean(result["class_accuracy"]) == pytest.approx(result["test_accuracy"])  # as many of each letter
    lines = (tmp_path / "table.md").read_text().split("\n\n")[0].splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(tables.HEADER) + 1}
    text = (tmp_path / "table.txt").read_text()
    assert "289,290" in text and "81 %" in text


# Stop and resume


def test_resumes_trial_by_trial(tmp_path, monkeypatch, trained):
    complete, stopped = tmp_path / "complete", tmp_path / "stopped"
    assert compare.main([*LIGHT, f"--out={complete}"]) == 0
    every = list(trained)
    trained.clear()
    run = trials.run

    def stopped_at_the_fourth(trial, *rest):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return run(trial, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", stopped_at_the_fourth)
        assert compare.main([*LIGHT, f"--out={stopped}"]) == 130
    assert sorted(results_of(stopped)) == sorted(every[:3])
    trained.clear()
    assert compare.main([*LIGHT, f"--out={stopped}"]) == 0
    assert trained == every[3:]
    for name, saved in results_of(complete).items():
        assert saved["result"]["right"] == results_of(stopped)[name]["result"]["right"]
    trained.clear()
    assert compare.main([*LIGHT, f"--out={stopped}"]) == 0
    assert trained == []


def test_ctrl_c_during_a_training_saves_nothing_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials.Watch, "on_batch_end", lambda self, batch, loss: signal.raise_signal(signal.SIGINT))
    assert compare.main([*LIGHT, f"--out={tmp_path}"]) == 130
    assert results_of(tmp_path) == {}
    assert "resumes" in capsys.readouterr().err


def test_other_settings_are_refused_before_any_work(tmp_path, trained, capsys):
    assert compare.main([*TABLE, f"--out={tmp_path}"]) == 0
    before = results_of(tmp_path)
    trained.clear()
    for change in ("--batch-size=16", "--epochs=2", "--samples=190"):
        assert compare.main([*TABLE, f"--out={tmp_path}", change]) == 1
        assert "--again" in capsys.readouterr().err
        assert trained == [] and results_of(tmp_path) == before
    assert compare.main([*TABLE, f"--out={tmp_path}", change, "--again"]) == 0
    assert len(trained) == 1
    assert results_of(tmp_path) != before


def test_edited_code_is_not_mixed_with_old_results(tmp_path, monkeypatch, capsys):
    """A user changes a learning rate, a network or the sweep between two runs."""
    sweep = [*TABLE, "--experiments=divergence", f"--out={tmp_path}"]
    assert compare.main(sweep) == 0
    model = models.MODELS["logistic_regression"]
    for change, named in (
        (lambda m: model._replace(optimizer=lambda steps, epochs: mc.SGD(0.02)), "optimizer"),
        (lambda m: model._replace(network=mc.networks.dense), "network"),
        (lambda m: m.setattr(divergence, "RATES", (0.01, 1.0)), "rates"),
        (lambda m: m.setattr(divergence, "LAB_RATE", 0.02), "fixes"),
    ):
        with monkeypatch.context() as patch:
            if edited := change(patch):
                patch.setitem(models.MODELS, "logistic_regression", edited)
            capsys.readouterr()
            assert compare.main(sweep) == 1
        assert named in capsys.readouterr().err


def test_broken_result_is_computed_again(tmp_path, trained, capsys):
    assert compare.main([*TABLE, f"--out={tmp_path}"]) == 0
    (tmp_path / "results" / "table-logistic_regression-seed0.json").write_text('{"settings": {')
    trained.clear()
    assert compare.main([*TABLE, f"--out={tmp_path}"]) == 0
    assert trained == ["table-logistic_regression-seed0"]
    assert "cannot be read" in capsys.readouterr().out


def test_result_is_written_atomically(tmp_path):
    task = store.Task("name", {"a": (1, 2)}, 1.0, None)
    folder = store.Store(tmp_path)
    folder.save(task, {"test_accuracy": 0.5})
    with pytest.raises(TypeError):
        folder.save(task, {"test_accuracy": object()})
    assert folder.load(task) == {"test_accuracy": 0.5}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["name.json"]


def test_minutes_limit_a_training(tmp_path, monkeypatch):
    """By a clock that counts the steps: 6 an epoch."""
    monkeypatch.setattr(trials, "time", types.SimpleNamespace(perf_counter=itertools.count().__next__))
    arguments = ["--samples=200", "--minutes=0.25", "--models=logistic_regression", "--experiments=none"]
    assert compare.main([*arguments, f"--out={tmp_path}"]) == 0
    assert 2 < results_of(tmp_path)["table-logistic_regression-seed0"]["result"]["epochs"] < 3


def test_ordered_has_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for order in ([], ["--ordered"]):
        assert compare.main([*TABLE, *order]) == 0
    shuffled, ordered = (
        next(iter(results_of(tmp_path / "runs" / folder).values()))["result"]
        for folder in ("compare-letters", "compare-letters-ordered")
    )
    assert shuffled["last_class"] == {"letter": "J", "train": 18, "validation": 2}
    assert ordered["last_class"] == {"letter": "J", "train": 0, "validation": 20}


@pytest.mark.parametrize(
    "arguments",
    [["--models=lenet6"], ["--epochs=0"], ["--minutes=nan"], ["--epochs=1", "--minutes=1"], ["--experiments=x"]],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        compare.main(arguments)


def test_too_few_or_too_many_samples(tmp_path, capsys):
    assert compare.main(["--samples=50", f"--out={tmp_path / 'out'}"]) == 1
    assert "100 images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_are_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert compare.main([*TABLE, f"--out={tmp_path}"]) == 0
    assert "matplotlib" in capsys.readouterr().out
    assert (tmp_path / "table.csv").exists() and not list(tmp_path.glob("*.png"))


def test_divergence_is_a_row_not_a_failure(tmp_path, monkeypatch):
    wild = models.MODELS["logistic_regression"]._replace(optimizer=lambda steps, epochs: mc.SGD(1e38))
    monkeypatch.setitem(models.MODELS, "logistic_regression", wild)
    assert compare.main([*TABLE, f"--out={tmp_path}"]) == 0
    assert results_of(tmp_path)["table-logistic_regression-seed0"]["result"]["diverged"]
    assert "diverged" in (tmp_path / "table.txt").read_text()


def test_the_page_names_notmnist_but_not_its_path(tmp_path, rng, capsys):
    count = 300
    labels = np.arange(count, dtype=np.uint8) % 10
    images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
    for name, dimensions, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
        header = struct.pack(f">{dimensions + 1}I", 0x800 + dimensions, *array.shape)
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    arguments = [*TABLE, f"--data={tmp_path / 'images-idx3-ubyte.gz'}"]
    assert compare.main([*arguments, f"--out={tmp_path / 'out'}", f"--docs={tmp_path / 'docs'}"]) == 0
    assert "THE COMPARISON, on notMNIST (IDX files), 300 images" in capsys.readouterr().out
    page = (tmp_path / "docs" / "comparison-notmnist.md").read_text()
    assert "**notMNIST (IDX files), 300 images**" in page and "lab had on notMNIST_large" in page
    assert "--data PATH" in page and str(tmp_path) not in page and "synthetic" not in page


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python /x/lenet5.py --data '/my files/small.zip' --seed=1", "python lenet5.py --data small.zip --seed=1"),
        (
            "python examples/lenet5.py --report=HERE/out/a --data ../b",
            "python examples/lenet5.py --report=out/a --data ../b",
        ),
    ],
)
def test_the_command_of_a_report_has_no_folders_of_this_machine(tmp_path, monkeypatch, command, shown):
    monkeypatch.chdir(tmp_path)
    assert report._command(command.replace("HERE", str(tmp_path))) == shown


def test_a_report_names_its_data_and_no_folders(tmp_path, rng):
    pytest.importorskip("matplotlib")
    model = mc.networks.logistic_regression(seed=0)
    test = rng.integers(256, size=(30, 1, 28, 28), dtype=np.uint8), np.arange(30) % 10
    what = f"notMNIST from {tmp_path / 'small.tar.gz'}"
    settings = {"command": f"python x.py --data {tmp_path / 'small.tar.gz'}", "data": what}
    report.write(tmp_path / "report", model, test, {}, settings, f"x, {what}")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<h1>x, notMNIST from small.tar.gz: " in page and "python x.py --data small.tar.gz" in page
    assert str(tmp_path) not in page


# The images


@pytest.fixture(scope="module")
def source():
    (x, y), (x_test, y_test) = mc.datasets.load_letters(train=400, test=40, cache=False)
    return data.Source(x, y, x_test, y_test, "letters", "letters")


def test_ordered_split_leaves_the_last_letter_out_of_training(source):
    train, held_out = data.split(source, ordered=True)
    assert len(held_out) == 40
    assert np.bincount(source.y[train], minlength=10).tolist() == [40] * 9 + [0]
    assert (source.y[held_out] == 9).all()
    some, rest = data.split(source, ordered=True, kept=0.25)
    assert np.count_nonzero(source.y[some] == 9) == 10 and len(rest) == 30
    assert sorted([*some, *rest]) == list(range(400))


def test_default_split_is_stratified_and_keeps_copies_together(source):
    train, held_out = data.split(source)
    assert np.bincount(source.y[train]).tolist() == [36] * 10
    assert sorted([*train, *held_out]) == list(range(400))
    twice = source._replace(x=np.concatenate([source.x, source.x]), y=np.concatenate([source.y, source.y]))
    train, held_out = data.split(twice)
    assert not {*(train % 400)} & {*(held_out % 400)}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("small", "notMNIST_small"),
        ("/home/small/notMNIST_large.tar.gz", "notMNIST_large"),
        ("idx", "notMNIST (IDX files)"),
        ("notmnist-images-idx3-ubyte.gz", "notMNIST (IDX files)"),
        ("letters-of-mine", "notMNIST (set not named)"),
    ],
)
def test_the_set_is_named_after_the_last_name_of_its_path(path, name):
    assert data.set_name(path) == name


def test_ordered_split_on_real_images(real_data):
    source = data.read(real_data / "notmnist-images-idx3-ubyte.gz")
    train, held_out = data.split(source, ordered=True)
    counts = np.bincount(source.y[train], minlength=10)
    assert counts[9] < 0.05 * counts[0] and np.count_nonzero(source.y[held_out] == 9) > 0.9 * len(held_out)


def test_variants_change_what_they_should(source):
    plain = data.prepare(source, trials.Trial("table", "dense", 1))
    permuted = data.prepare(source, trials.Trial("table", "dense", 1, permuted=True))
    assert (plain.train[0] != permuted.train[0]).any()
    for a, b in zip(plain, permuted, strict=True):  # the same pixels, all images by the same permutation
        assert (np.sort(a[0].reshape(len(a[0]), -1)) == np.sort(b[0].reshape(len(b[0]), -1))).all()
        constant = (a[0].reshape(len(a[0]), -1).std(axis=0) == 0).sum()
        assert constant == (b[0].reshape(len(b[0]), -1).std(axis=0) == 0).sum()
    normalized = data.prepare(source, trials.Trial("table", "dense", 1, normalized=True)).test[0]
    lengths = np.sqrt((normalized[:, 0] ** 2).sum(axis=1))  # (N, columns)
    assert np.isclose(lengths[lengths > 0], 1, atol=1e-5).all()
    few = data.prepare(source, trials.Trial("table", "dense", 1, images=100))
    assert len(few.train[0]) == 100 and len(few.validation[0]) == 40


def test_move_is_by_two_pixels_each_way():
    image = np.zeros((4, 28, 28), np.uint8)
    image[:, 10, 10] = 1
    assert [tuple(map(int, position[1:])) for position in np.argwhere(data.move(image))] == [
        (10, 12),
        (10, 8),
        (12, 10),
        (8, 10),
    ]


# Inside the dense network


def test_dead_fraction():
    model = mc.networks.dense(units=10)
    x = np.ones((5, 1, 28, 28), np.float32)
    x[0] = -1  # where the sums of the others are positive, those of this one are negative
    model.layers[1].bias.value[:4] = -1e6
    assert divergence.dead_fraction(model, x) == 0.4


def test_large_inputs_kill_relus_and_small_ones_learn(source):
    small, large = (divergence._sets(source, scale) for scale in ("0 to 1", "0 to 255"))
    learns = divergence.trace(small, mc.SGD(0.1), seed=0, steps=60, batch_size=32)
    dies = divergence.trace(large, mc.SGD(1.0), seed=0, steps=60, batch_size=32)
    assert divergence.outcome(learns) == "learns" and learns["losses"][-1] < learns["losses"][0]
    assert divergence.outcome(dies) == "dead" and dies["dead"] > 0.9
    gradients = [run["snapshots"][0]["gradients"]["dense_1.weight"] for run in (learns, dies)]
    assert gradients[1] > 10 * gradients[0]


def test_numbers_that_are_not_finite_are_an_outcome(source):
    run = divergence.trace(divergence._sets(source, "0 to 255"), mc.SGD(1e30), seed=0, steps=10, batch_size=32)
    assert divergence.outcome(run) == "not finite" and len(run["losses"]) == run["not_finite"]


# How certain a number is


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 20, 0, 0.1611),
        (20, 20, 0.8389, 1),
        (1, 2, 0.0945, 0.9055),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_interval(right, total, low, high):
    assert statistics.wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_satisfy_the_definition():
    for end in statistics.wilson(1804, 2000):  # |fraction - p| = z * sqrt(p (1 - p) / n)
        assert abs(0.902 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 2000))


def test_difference_over_seeds():
    found = statistics.difference([0.5, 0.6, 0.7], [0.4, 0.4, 0.4])
    assert found.mean == pytest.approx(20)
    assert found.half == pytest.approx(4.30 * 10 / math.sqrt(3))  # the standard deviation is 10 points
    assert "same" in found.sentence("less", "more", "same")
    assert "more" in statistics.difference([0.5, 0.51], [0.4, 0.41]).sentence("less", "more", "same")
    assert "less" in statistics.difference([0.4, 0.41], [0.5, 0.51]).sentence("less", "more", "same")
    assert "one seed" in statistics.difference([0.4], [0.5]).sentence("less", "more", "same")


def test_holms_correction():
    """By hand: the smallest p times the number of tests, the next times one less, and none below one before it."""
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.holm([0.6, 0.5]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("n", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216)])
def test_t_test_against_the_printed_table(n, t):
    gaps = np.arange(n + 1) - n / 2
    gaps = gaps / (gaps.std(ddof=1) / math.sqrt(n + 1)) + t
    assert statistics.t_test(gaps, 0 * gaps) == pytest.approx(0.05, abs=1e-6)
    assert statistics.t_test(gaps, gaps) == statistics.t_test([0.5], [0.1]) == 1


def test_a_difference_near_its_error_has_another_digit():
    sentence = statistics.Difference(0.32, 0.30).sentence("worse", "better", "the same")
    assert sentence == "better (+0.32 ± 0.30 points)"
    assert str(statistics.Difference(0.349, 0.251)) == "+0.35 ± 0.25"  # one digit would say +0.3 ± 0.3
    assert str(statistics.Difference(3.4, 0.5)) == "+3.4 ± 0.5"


def test_sign_test():
    assert statistics.sign_test("1100", "1010") == (1, 1, 1.0)
    assert statistics.sign_test("1" * 6, "0" * 6) == (6, 0, 2 / 64)
    assert statistics.sign_test("0" * 9000, "1" * 9000)[2] == 0


def test_size_agrees_with_a_built_network():
    for name in ("lenet5", "small_resnet"):
        assert models.size(name)[0] == getattr(mc.networks, name)().count_parameters()
    assert models.size("two_conv")[0] == 125_499_810


def test_few_images_have_as_many_steps():
    chosen = plan.Plan(("dense",), (), 1, None, 4, plan.REFERENCE_MODELS, 1, False, 32, 10, 2700)
    trial = chosen.amount_trial("dense", 0, 100)
    assert trial.epochs * math.ceil(100 / 32) == pytest.approx(4 * math.ceil(2700 / 32), rel=0.05)
