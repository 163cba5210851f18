"""The report of a run: a folder of pictures, and one page, `index.html`, that ties them together (`--report DIR`)."""

import html
import os
import pathlib
import platform
import secrets
import shlex
from importlib.metadata import version

import numpy as np

import minicnn as mc
from minicnn.datasets import LETTERS
from minicnn.files import write_whole
from minicnn.progress import html_table

PAGE = pathlib.Path(__file__).with_suffix(".html")


def prepare(folder):
    """Find out before any work whether a report can be made; nothing is left behind.

    Raises:
        MissingPackageError: there is no matplotlib.
        FileError: the folder cannot be made or written.
    """
    mc.plots.empty_figure(1, 1)
    if _make(folder):
        pathlib.Path(folder).rmdir()  # a run that is cut leaves no empty folder


def write(folder, model, test, history, settings, title):
    """Make the report of a trained network.

    Args:
        folder: where to; made if it is not there.
        model: the trained network.
        test: (x, y), uint8 images (N, 1, H, W) and their letters' indices.
        history: of its training.
        settings: what a reader must know of the run, {name: value}; versions are added.
        title: of the page.

    Raises:
        FileError: the folder cannot be written. The page is written last: where it is, all of it is.
    """
    folder, (x, y), plots = pathlib.Path(folder), test, mc.plots
    probabilities = model.predict(x)
    shown = _three(probabilities, y)
    named = zip(model.names, model.layers, strict=True)
    convolutions = [name for name, layer in named if isinstance(layer, mc.Conv2D)]
    _make(folder)
    (folder / "index.html").unlink(missing_ok=True)  # an older page does not belong to the pictures to come

    def picture(name, figure):
        _write(folder / f"{name}.png", plots.png(figure, dpi=160))
        about = html.escape(figure.get_suptitle())
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        return f'<figure><img src="{name}.png" alt="{about}" width="{width}" height="{height}"></figure>'

    title, settings = _data(title), dict(settings)
    for name, short in (("data", _data), ("command", _command)):
        if name in settings:
            settings[name] = short(settings[name])
    settings = settings | {
        "versions": f"minicnn {mc.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"matplotlib {version('matplotlib')}",
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
    }
    body = [
        "<h2>The run</h2>",
        '<div class="row"><div class="panel settings">',
        html_table(["setting", "value"], [[name, str(value)] for name, value in settings.items()]),
        f'</div><div class="panel summary">{model._repr_html_()}</div></div>',
        "<h2>Training curves</h2>",
    ]
    if any(history.values()):
        body.append(picture("training-curves", plots.training_curves(history)))
    else:
        body.append("<p>The training ended before its first epoch was done.</p>")
    body += [
        "<h2>Right and wrong</h2>",
        "<p>Each row of the confusion matrix is a letter, each column what the network takes it for: what stands off "
        "the diagonal is wrong. Beside it are the test images that the network is surest of and wrong.</p>",
        '<div class="row fit">',
        picture("confusion-matrix", plots.confusion_matrix(y, probabilities, LETTERS)),
        picture("confident-mistakes", plots.confident_mistakes(probabilities, x, y, LETTERS)),
        "</div>",
        "<h2>Kernels and feature maps</h2>",
    ]
    if convolutions:
        body.append(
            "<p>A kernel's picture is what it looks for: it adds up the pixels under orange weights and takes away "
            "those under blue ones. A feature map shows where it found that; its image is the first of those below.</p>"
        )
        body += [picture(f"kernels-{name}", plots.kernels(model, name)) for name in convolutions]
        maps = plots.feature_maps(model, x[next(iter(shown.values()))])
        body.append(picture("feature-maps", maps))
    else:
        body.append("<p>This network has no convolutions, and so neither kernels nor feature maps to show.</p>")
    body += [
        "<h2>Three images</h2>",
        "<p>Saliency is the gradient of the letter's score with respect to each pixel. Occlusion is how much of the "
        "letter's probability is lost when a grey patch lies there. Both are of the letter that the network says. The "
        "link leads to a page on which every number of the image's way through the network and back can be traced.</p>",
    ]
    for case, index in shown.items():
        said, name = int(probabilities[index].argmax()), case.split()[0].rstrip(",")
        mc.explain(model, x[index], int(y[index]), LETTERS).save(folder / f"explain-{name}.html")
        body += [
            f"<h3>{case.capitalize()}: test image {index}, labelled {LETTERS[y[index]]}, taken for {LETTERS[said]} "
            f'with {100 * probabilities[index, said]:.1f} %. <a href="explain-{name}.html">See every number</a></h3>',
            '<div class="row fit">',
            picture(f"saliency-{name}", plots.saliency(model, x[index], said, LETTERS)),
            picture(f"occlusion-{name}", plots.occlusion(model, x[index], said, names=LETTERS)),
            "</div>",
        ]
    accuracy = 100 * (probabilities.argmax(axis=1) == y).mean()
    head = f"{html.escape(title)}: {accuracy:.2f} % of {len(y):,} test images right"
    page = PAGE.read_text(encoding="utf-8").replace("TITLE", head).replace("BODY", "\n".join(body))
    _write(folder / "index.html", page.encode())


def _local(path):
    """A path that tells nothing of this machine: relative to where we are, or the file's name alone."""
    path, here = pathlib.Path(path), pathlib.Path.cwd()
    if not path.is_absolute():
        return str(path)
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _command(command):
    """A command with its paths made local.

    >>> _command("python /home/me/lenet5.py --data=/data/small.zip --report out/a")
    'python lenet5.py --data=small.zip --report out/a'
    """
    words = []
    for word in shlex.split(command):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(option + equals + (_local(value) if os.path.isabs(value) else value))
    return shlex.join(words)


def _data(what):
    """The data in words, with its path made local.

    >>> _data("lenet5, notMNIST from /data/my files/small.zip"), _data("letters")
    ('lenet5, notMNIST from small.zip', 'letters')
    """
    before, word, path = what.partition(" from ")
    return before + word + (_local(path) if os.path.isabs(path) else path)


def _three(probabilities, y):
    """Places of a sure and right, an unsure, and a wrong test image; those that there are."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    found = {}
    if right.any():
        found["sure and right"] = int(np.where(right, sure, -1).argmax())
    left = np.where(right, sure, 2) if right.sum() > 1 else sure
    found["unsure"] = int(left.argmin())
    wrong = mc.metrics.confident_mistakes(probabilities, y)
    if len(wrong):
        found["wrong, its surest mistake"] = int(wrong[0])
    return found


def _make(folder):
    """Make the folder where it is not there, and try to write in it; returns whether it was made."""
    folder = pathlib.Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise mc.FileError(f"no report can be written in {folder}: {error.strerror or error}") from error
    return made


def _write(path, content):
    with write_whole(path) as file:
        file.write(content)
