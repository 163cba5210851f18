"""See inside: one page on which every number of a network's way forward and back can be traced.

`explain` sends one image through a network and its gradient back, keeps every
array the library computes on the way, and writes them into one HTML file that
needs no network, no server and nothing but a browser.
"""

import base64
import html
import json
import pathlib

from minicnn.errors import InputError
from minicnn.explain.collect import collect
from minicnn.files import write_whole

_HERE = pathlib.Path(__file__).parent


class Explanation:
    """What `explain` returns: the page, to save, or to show itself in a notebook.

    Attributes:
        data: everything that the page shows, as plain values and NumPy arrays.

    >>> import minicnn as mc, numpy as np
    >>> explanation = explain(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"))
    >>> explanation.data["logits"].shape
    (10,)
    """

    def __init__(self, data):
        self.data = data

    def html(self):
        """The page as a text."""
        data = json.dumps(self.data, default=_packed).replace("</", "<\\/")
        page = _part("page.html").replace("/*CSS*/", _part("page.css"))
        return (
            page.replace("/*PAGE*/", _part("page.js"))
            .replace("/*DRAWING*/", _part("drawing.js"))
            .replace("/*DATA*/", data)
        )

    def save(self, path):
        """Write the page to a file, whole or not at all.

        Raises:
            FileError: the file cannot be written.
        """
        with write_whole(path) as file:
            file.write(self.html().encode("utf-8"))

    def _repr_html_(self):
        frame = f'srcdoc="{html.escape(self.html(), quote=True)}" style="width:100%;height:720px;border:0"'
        return f'<iframe title="minicnn explains" {frame}></iframe>'


def explain(model, image, label=None, names=None, training=False):
    """A page that shows how a network sees one image: every number forward and back.

    Args:
        model: a built `Sequential` that takes images (C, H, W) and ends in class scores (softmax or logits).
        image: one image, (C, H, W) or (H, W): floating point in the model's range, or uint8. Or the path of a
            picture (PNG, JPEG, ...) of any size, which is made grey or coloured and fitted to the model's input.
        label: the right class, from 0; None for the class that the network finds likeliest.
        names: a text for each class; letters A, B, C... up to 26 classes, else numbers, where none are given.

        training: whether the layers behave as in training, where Dropout drops.

    Returns:
        an `Explanation`, with `save(path)`; in a notebook it shows itself.

    Raises:
        InputError: an image or label that the model cannot take, or a model that does not end in class scores.
        FileError: the picture cannot be read.

    >>> import minicnn as mc, numpy as np
    >>> page = explain(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"), label=2)
    >>> page.html()[:15]
    '<!doctype html>'
    """
    return Explanation(collect(model, image, label, names, training))


def add_command(commands):
    """The command `explain` of `python -m minicnn`."""
    command = commands.add_parser("explain", help="write a page on which every number of a network can be traced")
    command.add_argument("model", help="a saved network (.npz)")
    command.add_argument("image", help="a picture of any size; or letters:N or PATH:N, image N of a test set")
    command.add_argument("-o", "--output", default="page.html", help="the page (default: page.html)")
    command.add_argument("--label", type=int, help="the right class, from 0 (of a test set's image it is known)")
    command.add_argument("--training", action="store_true", help="as in training, where Dropout drops")
    command.set_defaults(run=_run)


def _run(arguments):
    from minicnn.model import load

    model = load(arguments.model)
    image, label = arguments.image, arguments.label
    source, _, index = image.rpartition(":")
    if source and index.isdigit() and not pathlib.Path(image).exists():
        from minicnn.datasets import load_letters, load_notmnist

        _, (images, labels) = load_letters() if source == "letters" else load_notmnist(source)
        if int(index) >= len(images):
            raise InputError(f"{image}: the test set has {len(images)} images, numbered from 0")
        image, label = images[int(index)], int(labels[int(index)]) if label is None else label
    explain(model, image, label, training=arguments.training).save(arguments.output)
    print(f"{arguments.output}: open it in a browser")


def _part(name):
    return (_HERE / name).read_text(encoding="utf-8")


def _packed(value):
    """A NumPy array for the page: its shape, and its float32 bytes in base64."""
    array = value.astype("<f4", copy=False)
    return {"shape": list(array.shape), "f32": base64.b64encode(array.tobytes()).decode()}
