"""One page on which every number of a network's forward and backward pass can be traced.

`explain` runs the forward and the backward pass for one image, keeps every
array that the layers compute, and writes them into one HTML file. It opens in
any browser, without a server or the internet.
"""

import base64
import pathlib

from minicnn.inspect.explain.collect import collect
from minicnn.markup import Markup, fill, script_data
from minicnn.storage.files import atomic_write

_HERE = pathlib.Path(__file__).parent


class Explanation:
    """What `explain` returns: a page that can be saved; a notebook displays it.

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
        return fill(
            _read("page.html"),
            css=_read("page.css"),
            data=script_data(self.data, default=_pack),
            page=_read("page.js"),
            drawing=_read("drawing.js"),
        )

    def save(self, path):
        """Write the page to a file, atomically.

        Raises:
            FileError: the file cannot be written.
        """
        with atomic_write(path) as file:
            file.write(self.html().encode("utf-8"))

    def _repr_html_(self):
        frame = '<iframe title="minicnn explains" srcdoc="{{page}}" style="width:100%;height:720px;border:0"></iframe>'
        return fill(frame, page=str(self.html()))


def explain(model, image, label=None, names=None, training=False, invert=False):
    """A page that shows one image in a network: every number of its forward and its backward pass.

    The model is left as it was: no gradients stay, and states such as Dropout's step are restored.

    Args:
        model: a built `Sequential` that takes images (C, H, W) and ends in class scores (softmax or logits).
        image: one image, (C, H, W) or (H, W): floating point in the model's range, or uint8. Or the path of a
            picture (PNG, JPEG, ...) of any size, which is converted to grey or colour and fitted to the model's input;
            transparency, 16 bits and the camera's orientation are read as for training data.
        label: the right class, from 0; None for the predicted class.
        names: a text for each class; by default `model.classes`, and where there are none letters A, B, C... up to 26
            classes, numbers for more.
        training: whether the layers compute as in training, where Dropout drops.
        invert: True for the path of a picture of dark letters on a light ground, if the model learned light on dark.

    Returns:
        an `Explanation`, with `save(path)`; a notebook displays it.

    Raises:
        InputError: an image or label that the model cannot take, a model that does not end in class scores, or one
            that holds gradients of an unfinished training step.
        FileError: the picture cannot be read.

    >>> import minicnn as mc, numpy as np
    >>> page = explain(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"), label=2)
    >>> page.html()[:15]
    '<!doctype html>'
    """
    return Explanation(collect(model, image, label, names, training, invert))


def _read(name):
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _pack(value):
    """A NumPy array for the page: its shape, and its float32 bytes in base64."""
    array = value.astype("<f4", copy=False)
    return {"shape": list(array.shape), "f32": base64.b64encode(array.tobytes()).decode()}
