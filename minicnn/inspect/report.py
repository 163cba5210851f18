"""The report of a run: a folder of pictures, and a page, `index.html`, that shows them."""

import os
import pathlib
import platform
import re
import secrets
import shlex
import sys
from importlib import metadata, resources

import numpy as np

from minicnn.core import metrics
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError
from minicnn.core.layer import walk
from minicnn.core.layers import Conv2D
from minicnn.inspect import plots
from minicnn.inspect.explain import explain
from minicnn.inspect.explain.collect import class_names
from minicnn.markup import Markup, fill, table
from minicnn.storage.files import atomic_write

CONVOLUTIONS = 2  # whose kernels are shown; a network with more has one explain page, since it takes long to make
RUN = """<h2>The run</h2>
<div class="row"><div class="panel settings">{{settings}}</div><div class="panel summary">{{summary}}</div></div>
"""
PREDICTIONS = """<h2>Correct and wrong</h2>
<p>Each row of the confusion matrix is a class, each column a prediction of the network: what is not on the diagonal
is wrong. Beside it are the most confident mistakes: the wrong predictions with the highest probability.</p>
<div class="row fit">{{matrix}}{{mistakes}}</div>
"""
KERNELS = """<h2>Kernels and feature maps</h2>
<p>The picture of a kernel shows what it responds to: it adds the pixels under orange weights and subtracts those under
blue ones. A feature map shows where it responds, for the first image below.
{{left_out}}</p>
{{pictures}}
"""
NO_KERNELS = Markup("""<h2>Kernels and feature maps</h2>
<p>This network has no convolutions, so there are no kernels and no feature maps.</p>
""")
IMAGES = Markup("""<h2>Three images</h2>
<p>Saliency is the gradient of the class's score with respect to each pixel. Occlusion is how much the class's
probability falls when a grey patch covers the pixels there. Both are for the predicted class. The link opens a page on
which every number of the forward and the backward pass can be followed.</p>
""")
LINK = '<a href="{{link}}">See every number</a>'
IMAGE = """<h3>{{about}} {{link}}</h3>
<div class="row fit">{{saliency}}{{occlusion}}</div>
"""


def prepare(folder):
    """Check before any work whether a report can be made; no file or folder is left behind.

    Raises:
        MissingPackageError: matplotlib is not installed.
        FileError: the folder cannot be made or written.
    """
    plots.empty_figure(1, 1)
    check_folder(folder)


def check_folder(folder):
    """Check before any work whether a folder can be made or written; nothing is left behind.

    Raises:
        FileError: it cannot.
    """
    if _make(folder):
        pathlib.Path(folder).rmdir()  # a run that is stopped leaves no empty folder


def write(folder, model, test, history, settings, title):
    """Write the report of a trained network.

    Args:
        folder: of the report; made if it is missing.
        model: the trained network.
        test: (x, y), uint8 images (N, C, H, W) and their labels, class indices. The classes have the names in
            `model.classes`; where there are none, letters.
        history: of its training.
        settings: what a reader must know about the run, {name: value}; versions are added.
        title: of the page.

    Raises:
        FileError: the folder cannot be written. The page is written last: if it exists, the report is complete.
    """
    folder, (x, y) = pathlib.Path(folder), test
    names = class_names(model.shapes[-1][0], model=model)
    probabilities = model.predict(x)
    shown = _three_images(probabilities, y)
    convolutions = [name for name, _ in walk(model, Conv2D)]
    _make(folder)
    (folder / "index.html").unlink(missing_ok=True)  # an older page does not belong to the new pictures

    def picture(name, figure):
        name = re.sub(r"[^\w-]", "-", name) + ".png"  # of a layer whose name is not one of a file
        _write(folder / name, plots.png(figure, dpi=160))
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        image = '<figure><img src="{{name}}" alt="{{title}}" width="{{width}}" height="{{height}}"></figure>'
        return fill(image, name=name, title=figure.get_suptitle(), width=width, height=height)

    title, settings = _data(title), dict(settings)
    for name, make_local in (("data", _data), ("command", _command)):
        if name in settings:
            settings[name] = make_local(settings[name])
    settings = settings | {
        "versions": f"minicnn {sys.modules['minicnn'].__version__}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, matplotlib {metadata.version('matplotlib')}",
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
    }
    body = [
        fill(
            RUN,
            settings=table(["setting", "value"], [[name, str(value)] for name, value in settings.items()]),
            summary=model._repr_html_(),
        ),
        Markup("<h2>Training curves</h2>"),
    ]
    if any(history.values()):
        body.append(picture("training-curves", plots.training_curves(history)))
    else:
        body.append(Markup("<p>The training ended before the end of its first epoch.</p>"))
    body.append(
        fill(
            PREDICTIONS,
            matrix=picture("confusion-matrix", plots.confusion_matrix(y, probabilities, names)),
            mistakes=picture("confident-mistakes", plots.confident_mistakes(probabilities, x, y, names)),
        )
    )
    if convolutions:
        pictures = [picture(f"kernels-{name}", plots.kernels(model, name)) for name in convolutions[:CONVOLUTIONS]]
        maps = plots.feature_maps(model, x[next(iter(shown.values()))])
        more = len(convolutions) > CONVOLUTIONS
        left_out = f"Shown are the first {CONVOLUTIONS} of {len(convolutions)} convolutions." if more else ""
        body.append(fill(KERNELS, left_out=left_out, pictures=[*pictures, picture("feature-maps", maps)]))
    else:
        body.append(NO_KERNELS)
    body.append(IMAGES)
    step = max(1, min(round(side / 28) for side in x.shape[2:]))  # so that larger images take no more patches
    for case, index in shown.items():
        predicted, name = int(probabilities[index].argmax()), case.split()[0].rstrip(",")
        link = Markup("")
        if len(convolutions) <= CONVOLUTIONS or case == next(iter(shown)):
            explain(model, x[index], int(y[index]), names).save(folder / f"explain-{name}.html")
            link = fill(LINK, link=f"explain-{name}.html")
        about = f"test image {index}, labelled {names[y[index]]}, predicted {names[predicted]}"
        body.append(
            fill(
                IMAGE,
                about=f"{case.capitalize()}: {about}, {100 * probabilities[index].max():.1f} %.",
                link=link,
                saliency=picture(f"saliency-{name}", plots.saliency(model, x[index], predicted, names)),
                occlusion=picture(
                    f"occlusion-{name}",
                    plots.occlusion(model, x[index], predicted, size=5 * step, stride=step, names=names),
                ),
            )
        )
    accuracy = 100 * (probabilities.argmax(axis=1) == y).mean()
    template = resources.files("minicnn.inspect").joinpath("report.html").read_text(encoding="utf-8")
    head = f"{title}: {accuracy:.2f} % of {len(y):,} test images correct"
    _write(folder / "index.html", fill(template, title=head, body=body).encode())


def _local(path):
    """A path without the folders of this machine: relative to the current folder, or the file's name alone."""
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
    """The description of the data, with its path made local.

    >>> _data("lenet5, notMNIST from /data/my files/small.zip"), _data("letters")
    ('lenet5, notMNIST from small.zip', 'letters')
    """
    before, word, path = what.partition(" from ")
    return before + word + (_local(path) if os.path.isabs(path) else path)


def _three_images(probabilities, y):
    """Indices of a sure and correct, an unsure, and a wrong test image, if there are such images."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    images = {}
    if correct.any():
        images["sure and correct"] = int(np.where(correct, confidence, -1).argmax())
    rest = np.where(correct, confidence, 2) if correct.sum() > 1 else confidence
    images["unsure"] = int(rest.argmin())
    wrong = metrics.confident_mistakes(probabilities, y)
    if len(wrong):
        images["wrong, the most confident mistake"] = int(wrong[0])
    return images


def _make(folder):
    """Make the folder if it is missing, and try to write in it; returns whether it was made."""
    folder = pathlib.Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise FileError(f"no report can be written in {quoted(folder)}: {error.strerror or error}") from error
    return made


def _write(path, content):
    with atomic_write(path) as file:
        file.write(content)
