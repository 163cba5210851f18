"""The commands `train` and `predict`: from a folder of pictures to a network and its answers, with no code written.

And `summary` and `convert`, for a network in a file of any kind.
"""

import pathlib
import re
import shlex
import statistics
import sys
import time

import numpy as np

from minicnn import backends, console, networks
from minicnn.core import metrics
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import FileError, InputError, MissingPackageError
from minicnn.core.layers import Softmax
from minicnn.core.losses import SoftmaxCrossEntropy
from minicnn.core.optimizers import Adam
from minicnn.core.schedules import CosineDecay, WarmUp
from minicnn.datasets.folder import find_files, find_pictures, load_folder
from minicnn.datasets.images import picture_size, read_fitted, read_image
from minicnn.datasets.mnist import find_source, load_idx
from minicnn.exchange.any_file import check_ending, load, save
from minicnn.inspect import plots, report
from minicnn.inspect.explain.collect import class_names
from minicnn.training.augmentation import Augmentation
from minicnn.training.callbacks import AveragedWeights

NETWORKS = [name for name, found in vars(networks).items() if getattr(found, "__module__", "") == networks.__name__]
NETWORK_FILE = "a network in a file: .npz, .onnx (also from PyTorch), .keras or .h5"
BATCH_SIZE = 32
SAMPLE = 100  # pictures that are looked at to choose the size and the mode
LARGEST = 64  # pixels: the side that is chosen for large pictures
COLOURED = 24  # of 255: the least difference of a pixel's channels that is seen as a colour
#: Images to train on in all, divided by the number of images: the epochs, within these limits.
TOTAL_IMAGES, EPOCHS = 12_000, (10, 40)
SHOWN = 8  # confusions and mistakes, at most
TABLE = 12  # classes of a confusion matrix that fits in a terminal


# train


def add_train(commands):
    """The command `train` of `python -m minicnn`."""
    command = commands.add_parser("train", help="train a network on a folder of pictures, one subfolder for each class")
    command.add_argument("folder", help="pictures in one subfolder for each class; or the files of MNIST or CIFAR")
    command.add_argument("-o", "--output", default="trained", metavar="DIR", help="the results (default: trained)")
    command.add_argument(
        "--size", metavar="N|HxW", help="scale the pictures to this (default: by their sizes, at most 64)"
    )
    command.add_argument("--mode", choices=["L", "RGB"], help="grey or colour (default: as the pictures are)")
    command.add_argument("--invert", action="store_true", help="the pictures are dark on a light ground")
    command.add_argument("--test", type=float, default=0.1, help="fraction held out for the test (default: 0.1)")
    command.add_argument("--network", choices=NETWORKS, default="small_resnet", help="(default: small_resnet)")
    command.add_argument("--epochs", type=int, help="how often every picture is seen (default: by their number)")
    command.add_argument("--seed", type=int, default=0, help="of the split, the weights and the batches (default: 0)")
    command.add_argument("--backend", choices=backends.NAMES, default="numpy", help="what computes (default: numpy)")
    command.add_argument("--checkpoint", metavar="FILE", help="save the run there, and resume the one that is there")
    command.set_defaults(run=run_train)


def run_train(arguments):
    """Load the pictures, train, test, and save the model and a report."""
    started, output = time.perf_counter(), pathlib.Path(arguments.output)
    seed = check_integer(arguments.seed, "--seed", "train", minimum=0)
    backend = backends.use(arguments.backend)
    report.check_folder(output)
    no_report = None
    try:
        plots.empty_figure(1, 1)
    except MissingPackageError as error:
        no_report = error
    data = _load(arguments, seed)
    (x, y), (x_test, _) = data
    epochs = arguments.epochs
    if epochs is None:
        epochs = int(np.clip(TOTAL_IMAGES // len(x), *EPOCHS))
    epochs = check_integer(epochs, "--epochs", "train")
    _show_data(arguments, data)
    model = getattr(networks, arguments.network)(x.shape[1:], len(data.classes), seed=seed)
    model.classes = data.classes
    about = f"{arguments.network}, {model.count_parameters():,} parameters"
    console.show(f"{about}; {epochs} epochs on the backend {backend}; Ctrl-C ends it")
    steps = epochs * -(-len(x) // BATCH_SIZE)
    peak = 0.003 if arguments.network == "small_resnet" else 0.001
    warm_up = max(1, steps // 10)
    rate = WarmUp(CosineDecay(peak, steps=max(1, steps - warm_up)), steps=warm_up)
    history = model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=Adam(rate, weight_decay=0.01),
        loss=SoftmaxCrossEntropy(label_smoothing=0.1),
        augmentation=Augmentation(shift=max(1, x.shape[2] // 16), rotate=8, scale=0.1, seed=seed),
        callbacks=[AveragedWeights(0.99)],
        validation_data=data.validation,
        checkpoint=arguments.checkpoint,
        resume=arguments.checkpoint is not None,
    )
    probabilities = model.predict(x_test)
    _show_results(data, probabilities)
    _make(output)
    model.save(output / "model.npz")
    file, invert = _text(output / "model.npz"), " --invert" if arguments.invert else ""
    console.show(f"\nnetwork saved in {file}: python -m minicnn predict {file} PICTURE{invert}")
    if no_report is not None:
        console.show(f"no report: {no_report}")
        return
    settings = {
        "command": shlex.join(["python", "-m", "minicnn", *sys.argv[1:]]),
        "data": arguments.folder,
        "epochs": f"{len(history.get('loss', []))} of {epochs}",
        "batch size": BATCH_SIZE,
        "learning rate": f"up to {peak}, then half a cosine down to 0",
        "seed": seed,
        "backend": backend,
        "time": f"{time.perf_counter() - started:.0f} s for data, training and test",
    }
    report.write(output / "report", model, data.test, history, settings, f"{arguments.network} on {arguments.folder}")
    console.show(f"report in {_text(output / 'report' / 'index.html')}: open it in a browser")


def _make(folder):
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {quoted(folder, 300)}: {error.strerror}") from error


def _load(arguments, seed):
    """The data set in the folder: pictures, or the files of MNIST or CIFAR."""
    size = _parse_size(arguments.size)
    if find_source(arguments.folder) is not None:
        if size is not None or arguments.mode is not None:
            raise InputError("--size and --mode are for folders of pictures: these files have one size and one mode")
        return load_idx(arguments.folder, invert=arguments.invert, test=arguments.test, seed=seed)
    mode = arguments.mode
    if size is None or mode is None:
        _, _, pictures, _ = find_pictures(arguments.folder)
        sample = [picture.path for picture in pictures[:: max(1, len(pictures) // SAMPLE)]]
        size, mode = size or choose_size(sample), mode or choose_mode(sample)
    return load_folder(arguments.folder, size, mode=mode, test=arguments.test, invert=arguments.invert, seed=seed)


def _parse_size(text):
    """(H, W) of "64" or "48x64", or None."""
    if text is None:
        return None
    found = re.fullmatch("([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    if not found or 0 in (sides := (int(found[1]), int(found[2] or found[1]))):
        raise InputError(f"--size needs pixels, such as 64 or 48x64 (height x width), got {quoted(text)}")
    return sides


def choose_size(paths):
    """The (H, W) to which pictures are scaled: their own if all have one that is small; else a square.

    Args:
        paths: of some of the pictures; those that cannot be read do not count.
    """
    sizes = list(filter(None, (_or_none(picture_size, path) for path in paths)))
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST:
        return sizes[0]
    side = statistics.median(min(size) for size in sizes) if sizes else LARGEST
    side = min((32, 48, LARGEST), key=lambda choice: abs(choice - side))
    return side, side


def choose_mode(paths):
    """ "RGB" if a tenth of the pictures show colours, else "L"."""
    pictures = [_or_none(read_image, path, mode="RGB", into=(32, 32)) for path in paths]
    coloured = [(np.ptp(pixels, axis=2) >= COLOURED).mean() > 0.01 for pixels in pictures if pixels is not None]
    return "RGB" if sum(coloured) > len(coloured) / 10 else "L"


def _or_none(read, *arguments, **options):
    try:
        return read(*arguments, **options)
    except FileError:
        return None


def _show_data(arguments, data):
    (x, y), (_, y_test) = data
    C, H, W = x.shape[1:]
    console.show(
        f"{_text(arguments.folder)}: {len(data.classes)} classes, read as {'colour' if C == 3 else 'grey'} of "
        f"{H} x {W} pixels, {len(data.skipped)} files left out"
    )
    columns = [("train", y), ("test", y_test)]
    if data.validation is not None:
        columns.insert(1, ("validation", data.validation[1]))
    counts = [np.bincount(labels, minlength=len(data.classes)) for _, labels in columns]
    width = max(5, *(len(_text(name)) for name in data.classes))
    console.show(f"  {'class':{width}}" + "".join(f"{name:>12}" for name, _ in columns))
    for row, name in enumerate(data.classes[:40]):
        console.show(f"  {_text(name):{width}}" + "".join(f"{count[row]:12,}" for count in counts))
    if len(data.classes) > 40:
        console.show(f"  and {len(data.classes) - 40} more")
    console.show(f"  {'all':{width}}" + "".join(f"{count.sum():12,}" for count in counts))


def _show_results(data, probabilities):
    """Accuracy, confusion and the surest mistakes, in words."""
    labels, classes = data.test[1], [_text(name) for name in data.classes]
    predicted = probabilities.argmax(axis=1)
    accuracy = 100 * (predicted == labels).mean()
    console.show(f"\ntest accuracy {accuracy:.2f} %: {(predicted == labels).sum():,} of {len(labels):,} pictures")
    counts = metrics.confusion_matrix(labels, probabilities)
    if len(classes) <= TABLE:
        width = max(10, *map(len, classes))
        console.show("  " + " " * width + "  predicted as " + ", ".join(f"({k}) {n}" for k, n in enumerate(classes, 1)))
        console.show("  " + " " * width + "".join(f"{f'({k})':>7}" for k in range(1, len(classes) + 1)))
        for name, row in zip(classes, counts, strict=True):
            console.show(f"  {name:{width}}" + "".join(f"{count:7}" if count else "      ." for count in row))
    wrong = counts - np.diag(np.diag(counts))
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN]
    for true, other in zip(*np.unravel_index(pairs[wrong.ravel()[pairs] > 0], wrong.shape), strict=True):
        total = counts[true].sum()
        console.show(f"  {classes[true]} taken for {classes[other]}: {wrong[true, other]} of {total}")
    mistakes = metrics.confident_mistakes(probabilities, labels)[:SHOWN]
    if len(mistakes):
        console.show("the surest mistakes:")
    for index in mistakes:
        name = data.names["test"][index] if "test" in data.names else f"test image {index}"
        percent = 100 * probabilities[index].max()
        console.show(f"  {_text(name)}: {classes[predicted[index]]} {percent:.0f} %, in truth {classes[labels[index]]}")


# networks in files


def add_network(command, name, **options):
    """The arguments of a command that say which network it reads."""
    command.add_argument(name, help=NETWORK_FILE, **options)
    command.add_argument(
        "--input-shape", metavar="C,H,W", help="of an .onnx file that leaves the size of its input open: 3,224,224"
    )


def load_network(path, arguments):
    """The network in a file, of the size that `--input-shape` gives."""
    text = arguments.input_shape
    if text is not None and re.fullmatch("[0-9]{1,9}(,[0-9]{1,9})*", text) is None:
        raise InputError(f"--input-shape needs the numbers C,H,W, such as 3,224,224, got {quoted(text)}")
    return load(path, input_shape=None if text is None else tuple(map(int, text.split(","))))


# predict


def add_predict(commands):
    """The command `predict` of `python -m minicnn`."""
    command = commands.add_parser("predict", help="what a saved network says about pictures")
    add_network(command, "model")
    command.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture of any size, or a folder of them")
    command.add_argument("--invert", action="store_true", help="the pictures are dark on a light ground")
    command.add_argument("--top", type=int, default=3, help="classes shown for each picture (default: 3)")
    command.set_defaults(run=run_predict)


def run_predict(arguments):
    """Print the likeliest classes of each picture; the exit code is 1 if one cannot be read."""
    top = check_integer(arguments.top, "--top", "predict")
    model = load_network(arguments.model, arguments)
    shape = model.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or len(model.shapes[-1]) != 1:
        raise InputError(
            f"predict needs a network from pictures of 1 or 3 channels to classes, this one is from {shape} to "
            f"{model.shapes[-1]}"
        )
    classes = [_text(name) for name in class_names(model.shapes[-1][0], model=model)]
    read = {"size": shape[1:], "invert": arguments.invert, "mode": "L" if shape[0] == 1 else "RGB"}
    failed = False
    for path, reason in _pictures(arguments.pictures):
        try:
            if reason:
                raise FileError(f"{quoted(path, 300)} is not read: it is {reason}")
            image = read_fitted(path, **read)
        except FileError as error:
            console.show_error(f"error: {error}")
            failed = True
            continue
        scores = model.predict(image[None])
        probabilities = (scores if model.ends_in_softmax else np.asarray(Softmax()(scores)))[0]
        likeliest = np.argsort(-probabilities, kind="stable")[:top]
        console.show(f"{_text(path)}: " + ", ".join(f"{classes[k]} {100 * probabilities[k]:.1f} %" for k in likeliest))
    return int(failed)


def _pictures(paths):
    """(path, "") of each picture; for a folder, of the files in it, at any depth, or (path, why it is left out)."""
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            yield from find_files(path)
        else:
            yield path, ""


# summary and convert


def add_summary(commands):
    """The command `summary` of `python -m minicnn`."""
    command = commands.add_parser("summary", help="the layers of a saved network, with shapes and parameters")
    add_network(command, "model")
    command.set_defaults(run=run_summary)


def run_summary(arguments):
    """Print the table of a network's layers."""
    load_network(arguments.model, arguments).summary()


def add_convert(commands):
    """The command `convert` of `python -m minicnn`."""
    command = commands.add_parser("convert", help="write a saved network to a file of another kind")
    add_network(command, "source", metavar="FROM")
    new = "the new file: .npz, .onnx or .keras; for the weights alone .safetensors or .weights.h5"
    command.add_argument("target", metavar="TO", help=new)
    command.set_defaults(run=run_convert)


def run_convert(arguments):
    """Read a network and write it as the ending of the new name says."""
    source, target = pathlib.Path(arguments.source), pathlib.Path(arguments.target)
    check_ending(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{quoted(target, 300)} is the file to convert: give the new file another name")
    model = load_network(source, arguments)
    save(model, target)
    console.show(
        f"{_text(target)}: {len(model.layers)} layers, {model.count_parameters():,} parameters, from {_text(source)}"
    )


def _text(name):
    """A name from outside in printable characters."""
    return quoted(name, 300)[1:-1]
