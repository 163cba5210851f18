"""What the examples share: their options, their data, and the picture at the end.

Each network is written out in its own example.
"""

import argparse
import atexit
import contextlib
import math
import os
import pathlib
import shlex
import sys
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import minicnn as mc
from minicnn.console import discard_unwritten, run_command, show, show_error
from minicnn.core.checks import quoted
from minicnn.datasets import LETTERS
from minicnn.inspect import report
from minicnn.parallel import Ranks, world
from minicnn.storage.files import atomic_write
from minicnn.training.checkpoint import optimizer_settings

DATA = (
    "letters (synthetic, no download), notmnist-small, notmnist-large or notmnist-idx (downloaded once), "
    "or the path of notMNIST's files"
)
BACKEND = "what computes: plain (the formulas alone) or numpy on the CPU, cupy on the GPU, auto (cupy if it works)"
DOWNLOADS = {"notmnist-small": "small", "notmnist-large": "large", "notmnist-idx": "idx"}
atexit.register(discard_unwritten)  # whatever the command line ends with, such as --help | head -1
GREEN, RED, GREY = (30, 120, 60), (190, 40, 40), (90, 90, 90)


def options(description, name, epochs, samples=None, resumes=True, batch_size=32, more=()):
    """Read the command line of an example.

    Args:
        description: what the example does.
        name: of the files that it writes.
        epochs, samples: the defaults.
        resumes: whether it trains with `fit`, which can resume a run.
        batch_size: the default.
        more: options of its own, a list of (names, arguments of `add_argument`).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--data", default="letters", metavar="NAME|PATH", help=DATA)
    add("--epochs", type=count, default=epochs, help="how often every training image is used")
    add("--batch-size", type=count, default=batch_size, help="images per step")
    add("--samples", type=count, default=samples, help="train on this many images only")
    add("--seed", type=_seed, default=0, help="of the weights, the batches and the split")
    add("--backend", choices=mc.backends.NAMES, default="numpy", help=BACKEND)
    if resumes:
        add("--checkpoint", metavar="FILE", help="save the complete run there, and resume the run that is there")
    add("--save", default=f"{name}.npz", metavar="FILE", help="file of the trained network")
    add("--picture", default=f"{name}.png", metavar="FILE", help="file of the picture of predictions")
    add("--report", metavar="DIR", help="also write a folder of pictures, and a page, index.html, that shows them")
    add("--min-accuracy", type=_percentage, default=0, metavar="PERCENT", help="fail if the test accuracy is below")
    for names, arguments in more:
        add(*names, **arguments)

    def check(chosen):
        """Before any work: a run must not fail at its end because a folder is missing."""
        for path in (chosen.save, chosen.picture):
            path = pathlib.Path(path).resolve()
            if path.is_dir():
                parser.error(f"{quoted(path)} is a folder: give the name of a file")
            if not path.parent.is_dir():
                parser.error(f"the folder of {quoted(path)} does not exist")
            if not os.access(path.parent, os.W_OK):
                parser.error(f"the folder of {quoted(path)} cannot be written")
        try:
            mc.use(chosen.backend)
            if chosen.report is not None:
                report.prepare(chosen.report)
        except mc.MinicnnError as error:
            parser.error(str(error))

    chosen = parse(parser, check)
    with chosen.ranks:
        chosen.backend = mc.use(chosen.backend)
    chosen.started = time.perf_counter()
    return chosen


def parse(parser, check=lambda chosen: None, arguments=None):
    """Read the command line, to which `--mpi` is added; on several processes rank 0 alone reports what is wrong.

    Args:
        parser: an ArgumentParser.
        check: called with the arguments on rank 0; it may call `parser.error`.
        arguments: the command line; by default that of this process.

    Returns:
        the arguments, with `ranks`: the `minicnn.parallel.Ranks` of all processes, or of this one without `--mpi`.
        Of the others than rank 0 nothing is printed, but errors that they have by themselves.
    """
    mpi = {"action": "store_true", "help": "train together with the other processes of mpiexec (docs/parallel.md)"}
    parser.add_argument("--mpi", **mpi)
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--mpi", **mpi)
    try:
        ranks = Ranks(world() if first.parse_known_args(arguments)[0].mpi else None)
    except mc.MissingPackageError as error:
        parser.error(str(error))

    def exit_code():
        try:
            check(parser.parse_args(arguments))
        except SystemExit as error:
            return error.code or 0

    code = ranks.send(exit_code() if ranks.is_first else None)
    if code is not None:
        sys.exit(code if ranks.is_first else 0)
    chosen = parser.parse_args(arguments)
    chosen.ranks = ranks
    if not ranks.is_first:
        sys.stdout = None
    return chosen


def command(main, ranks):
    """`run_command` on the processes of a run: rank 0 reports what all raise, and its exit code is the one that counts.

    An error that one process has by itself has ended all of them before it comes here.
    """
    if ranks.is_first:
        return run_command(main)
    with contextlib.suppress(mc.MinicnnError, KeyboardInterrupt):
        main()
    return 0


def load_data(chosen):
    """`(x_train, y_train), (x_test, y_test)` with images (N, 1, 28, 28), and their description."""
    try:
        sets, what = on_all(chosen.ranks, lambda: _read(chosen))
        (x_train, y_train), (x_test, y_test) = sets
        if chosen.samples is not None:
            if chosen.samples > len(x_train):
                raise mc.InputError(f"--samples {chosen.samples} is more than the {len(x_train)} training images")
            x_train, y_train = x_train[: chosen.samples], y_train[: chosen.samples]  # they come shuffled
    except mc.MinicnnError as error:
        sys.exit(f"error: {error}" if chosen.ranks.is_first else 0)
    show(f"data: {what}; {len(x_train):,} images to train on, {len(x_test):,} to test; backend {chosen.backend}")
    return (x_train[:, None], y_train), (x_test[:, None], y_test), what


def on_all(ranks, load):
    """`load()` on every process: rank 0 goes first, because it may download, or fill a cache that the others find."""
    loaded = []
    with ranks:
        ranks.first(lambda: loaded.append(load()))
        return loaded[0] if loaded else load()


def _read(chosen):
    """The two sets, and their description."""
    if chosen.data == "letters":
        return mc.datasets.load_letters(seed=chosen.seed), mc.datasets.LETTERS_DESCRIPTION
    source = DOWNLOADS.get(chosen.data, chosen.data)
    return mc.datasets.load_notmnist(source, seed=chosen.seed), f"notMNIST from {chosen.data}"


def run(model, optimizer, chosen):
    """Train a network, measure it on the test set, save it, and draw its predictions for some test images.

    Returns:
        the exit code: 1 if the accuracy is below `--min-accuracy`, or after an error; 130 after Ctrl-C.
    """

    def train():
        (x_train, y_train), test, what = load_data(chosen)
        model.summary(chosen.batch_size)
        history = model.fit(
            x_train,
            y_train,
            epochs=chosen.epochs,
            batch_size=chosen.batch_size,
            optimizer=optimizer,
            validation_split=0.1,
            checkpoint=chosen.checkpoint,
            resume=chosen.checkpoint is not None,
            communicator=chosen.ranks.communicator,
        )
        return finish(model, test, what, chosen, history, optimizer)

    return command(train, chosen.ranks)  # after an error or Ctrl-C nothing is saved


def finish(model, test, what, chosen, history, optimizer):
    """Measure, save and draw a trained network; on several processes, rank 0 does.

    Returns:
        the exit code: 1 if the accuracy is below `--min-accuracy`.
    """
    if not chosen.ranks.is_first:
        return 0
    x_test, y_test = test
    loss, accuracy = model.evaluate(x_test, y_test)
    model.save(chosen.save)
    show(f"test loss {loss:.4f}, test accuracy {100 * accuracy:.2f} % on {len(x_test):,} images ({what})")
    draw_predictions(model, x_test, y_test, chosen.picture, f"test accuracy {100 * accuracy:.1f} %: {what}")
    show(f"network saved in {chosen.save}, picture of predictions in {chosen.picture}")
    if chosen.report is not None:
        numbers = {name: value for name, value in optimizer_settings(optimizer).items() if value is not None}
        settings = {
            "command": shlex.join(["python", *sys.argv]),
            "data": what,
            "epochs": f"{len(history.get('loss', []))} of {chosen.epochs}",
            "batch size": chosen.batch_size,
            "optimizer": f"{numbers.pop('class')}: " + ", ".join(f"{name} {value}" for name, value in numbers.items()),
            "seed": chosen.seed,
            "backend": chosen.backend,
            "time": f"{time.perf_counter() - chosen.started:.0f} s for data, training and test",
        }
        report.write(chosen.report, model, test, history, settings, f"{pathlib.Path(sys.argv[0]).stem}, {what}")
        show(f"report in {pathlib.Path(chosen.report) / 'index.html'}: open it in a browser")
    if 100 * accuracy < chosen.min_accuracy:
        show_error(f"the test accuracy is below {chosen.min_accuracy} %")
        return 1
    return 0


def draw_predictions(model, images, labels, path, title):
    """A PNG of 24 test images with their predictions: the most confident mistakes, then correct ones in order."""
    probabilities = model.predict(images)
    predicted = probabilities.argmax(axis=1)
    wrong = mc.metrics.confident_mistakes(probabilities, labels)[:8]
    correct = np.flatnonzero(predicted == labels)[: 24 - len(wrong)]
    shown = np.concatenate([wrong, correct])
    scale, columns, gap, head = 3, 8, 12, 40
    tile, caption = 28 * scale, 36
    rows = math.ceil(len(shown) / columns)
    width, height = gap + columns * (tile + gap), head + rows * (tile + caption + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    draw.text((gap, 10), title, fill="black", font=font)
    for position, index in enumerate(shown):
        left = gap + position % columns * (tile + gap)
        top = head + position // columns * (tile + caption + gap)
        glyph = Image.fromarray(np.asarray(images[index, 0])).resize((tile, tile), Image.Resampling.NEAREST)
        sheet.paste(glyph, (left, top))
        is_correct = predicted[index] == labels[index]
        prediction = f"{LETTERS[predicted[index]]}  {100 * probabilities[index].max():.0f} %"
        draw.text((left, top + tile + 2), prediction, fill=GREEN if is_correct else RED, font=font)
        if not is_correct:
            draw.text((left, top + tile + 20), f"labelled {LETTERS[labels[index]]}", fill=GREY, font=small)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def count(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs an integer of at least 1, got {quoted(text)}")
    return int(text)


def _seed(text):
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"needs an integer of at least 0, got {quoted(text)}")
    return int(text)


def _percentage(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to 100, got {quoted(text)}")
    return value
