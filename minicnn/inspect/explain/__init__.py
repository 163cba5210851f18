"""One page on which every number of a network's forward and backward pass can be traced.

`explain` runs the forward and the backward pass for one image, keeps every
array that the layers compute, and writes them into one HTML file. It opens in
any browser, without a server or the internet.

The page's own code is in the folder `page`: one JavaScript module for each
view. `script` puts them together.
"""

import base64
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.core.sequential import Sequential
from minicnn.core.types import Array, Path
from minicnn.inspect.explain.collect import collect
from minicnn.markup import Markup, fill, script_data
from minicnn.storage.files import atomic_write

_PAGE = pathlib.Path(__file__).parent / "page"


class Explanation:
    """What `explain` returns: a page that can be saved; a notebook displays it.

    Args:
        data: as `collect.collect` makes it.

    Attributes:
        data: everything that the page shows, as plain values and NumPy arrays.

    >>> import minicnn as mc, numpy as np
    >>> explanation = explain(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"))
    >>> explanation.data["logits"].shape
    (10,)
    """

    def __init__(self, data: dict[str, Any]):
        self.data = data

    def html(self) -> str:
        """The page as a text."""
        return _page(self.data)

    def save(self, path: Path) -> None:
        """Write the page to a file, atomically.

        Args:
            path: the file, which is replaced.

        Raises:
            FileError: the file cannot be written.
        """
        with atomic_write(path) as file:
            file.write(self.html().encode("utf-8"))

    def _repr_html_(self):
        frame = '<iframe title="minicnn explains" srcdoc="{{page}}" style="width:100%;height:720px;border:0"></iframe>'
        return fill(frame, page=str(self.html()))


def explain(
    model: Sequential,
    image: Array,
    label: int | None = None,
    names: Sequence[str] | None = None,
    training: bool = False,
    invert: bool = False,
    *,
    examples: tuple[Array, Array] | None = None,
) -> Explanation:
    """A page that shows one image in a network: every number of its forward and its backward pass.

    The model is left as it was: no gradients stay, and states such as Dropout's step are restored.

    Args:
        model: a built `Sequential` that takes images (C, H, W) and ends in class scores (softmax or logits).
        image: one image, (C, H, W) or (H, W): floating point in the model's range, or uint8. Or the path of a
            picture (PNG, JPEG, ...) of any size, which is converted to grey or colour and fitted to the model's input;
            transparency, 16 bits and the camera's orientation are read as for training data.
        label: the right class, as a number from 0 or by its name; None for the predicted class.
        names: a text for each class; by default `model.classes`, and where there are none letters A, B, C... up to 26
            classes, numbers for more.
        training: whether the layers compute as in training, where Dropout drops.
        invert: True for the path of a picture of dark letters on a light ground, if the model learned light on dark.
        examples: images (N, C, H, W) or (N, H, W), such as a test set: for each filter and class the page shows those
            that excite it most.

    Returns:
        an `Explanation`, with `save(path)`; a notebook displays it.

    Raises:
        InputError: an image, label or examples that the model cannot take, a model that does not end in class scores,
            or one that holds gradients of an unfinished training step.
        FileError: the picture cannot be read.

    >>> import minicnn as mc, numpy as np
    >>> page = explain(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8"), label="C")
    >>> page.html()[:15]
    '<!doctype html>'
    """
    return Explanation(collect(model, image, label, names, training, invert, examples))


def live_server(model, image, label=None, *, training=False, invert=False, epochs=None, load=None, port=0):
    """A server on this machine for a page that changes the network and the image, and shows what follows.

    Args:
        model, image, label, training, invert: as for `explain`. The model is left as it is: a copy is changed.
        epochs: `{epoch: path}` of the networks of a run, as `experiment.kept_epochs` finds them.
        load: a function that reads a network from a path; needed for `epochs`.
        port: 0 for any free one.

    Returns:
        a `LiveServer`: its `run()` prints the page's address, with a token, and answers until Ctrl-C.

    Raises:
        InputError, FileError: as for `explain`; the port is not free.

    >>> import minicnn as mc, numpy as np
    >>> with live_server(mc.networks.logistic_regression(), np.zeros((28, 28), "uint8")) as server:
    ...     server.address.startswith("http://127.0.0.1:")
    True
    """
    from minicnn.inspect.explain.experiment import Experiment  # here, because they take 10 ms of `import minicnn`
    from minicnn.inspect.explain.live import LiveServer

    return LiveServer(Experiment(model, image, label, None, training, invert, epochs, load), _page, _pack, port)


def script():
    """The page's modules as one script: each after those that it imports, and each in a function of its own.

    A page opened from a file may not import other files, so the modules are put into it. What a module exports is a
    name of the script; everything else is seen in the module alone.

    >>> script().rstrip().endswith("})();")
    True
    """
    modules = {}

    def add(name):
        text = modules[name] = _read(name)
        imported = re.findall(r'^import [^;]*? from "\./(.*?)";', text, re.MULTILINE)
        for other in imported:
            if other not in modules:
                add(other)
        modules[name] = modules.pop(name)  # at the end: after those that it imports

    add("main.js")
    return "\n".join(map(_as_function, modules.values()))


def _as_function(text):
    """A module as a function that is called at once and returns what the module exports."""
    names = ", ".join(re.findall(r"^export (?:async )?(?:const|let|function) ([\w$]+)", text, re.MULTILINE))
    body = re.sub(r"^import [^;]*;\n|^export (?=\w)", "", text, flags=re.MULTILINE)
    return f"const {{ {names} }} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();"


def _page(data):
    return fill(
        Markup(_read("page.html")),
        css=Markup(_read("page.css")),
        data=script_data(data, default=_pack),
        script=Markup(script()),
    )


def _read(name):
    return (_PAGE / name).read_text(encoding="utf-8")


def _pack(value):
    """A NumPy array for the page: its shape, and its bytes in base64; uint8 as it is, all others as float32."""
    key, dtype = ("u8", "u1") if value.dtype == np.uint8 else ("f32", "<f4")
    array = np.ascontiguousarray(value.astype(dtype, copy=False))
    return {"shape": list(array.shape), key: base64.b64encode(array.tobytes()).decode()}
