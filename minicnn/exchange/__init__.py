"""Networks from other libraries, and for them: ONNX, PyTorch's weights, safetensors, Keras.

A file of another library is read by its own format's rules and becomes layers
of this library: nothing in it is executed or unpickled. The packages that the
formats need are imported when a function is called, not before.
"""

import importlib
import typing

from minicnn.core import habits

__all__ = [
    "load",
    "load_keras",
    "load_onnx",
    "load_weights",
    "save",
    "save_keras",
    "save_onnx",
    "save_weights",
]

#: Where each function is, so that `import minicnn` does not read all of them.
_MODULES = {
    "load": "any_file",
    "save": "any_file",
    "load_onnx": "onnx_load",
    "save_onnx": "onnx_save",
    "load_keras": "keras",
    "save_keras": "keras",
    "load_weights": "weights",
    "save_weights": "weights",
}

_FROM_PYTORCH = (
    "let PyTorch write the network with torch.onnx.export, then mc.exchange.load_onnx(path); or build it here, and "
    "mc.exchange.load_weights(model, path) reads what torch.save wrote of its state_dict()"
)

#: What other names are called here.
_SENTENCES = {
    "load_model": "it is mc.exchange.load(path)",
    "load_torch": _FROM_PYTORCH,
    "load_pytorch": _FROM_PYTORCH,
    "load_state_dict": "it is mc.exchange.load_weights(model, path)",
    "export": "it is mc.exchange.save_onnx(model, path)",
}


if typing.TYPE_CHECKING:  # what type checkers and editors read; it is never run
    from minicnn.exchange.any_file import load, save
    from minicnn.exchange.keras import load_keras, save_keras
    from minicnn.exchange.onnx_load import load_onnx
    from minicnn.exchange.onnx_save import save_onnx
    from minicnn.exchange.weights import load_weights, save_weights
else:

    def __getattr__(name):
        """Import the module of a function when it is asked for."""
        if name not in _MODULES:
            raise habits.unknown_name(__name__, name, _SENTENCES)
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return [*globals(), *_MODULES]
