"""The names of the classes, which a file of another library may keep beside the network, as JSON."""

import json

from minicnn import console
from minicnn.core.checks import quoted


def set_classes(model, found, path):
    """Give a model the names of the classes that were found in a file; a warning where they do not fit.

    Args:
        model: a built `Sequential`.
        found: a JSON text, what one says, or None.
        path: the file, for the warning.
    """
    try:
        model.classes = json.loads(found) if isinstance(found, str) else found
    except (ValueError, RecursionError) as error:  # also an InputError
        console.warn(f"the names of the classes in {quoted(path, 300)} are not used: {quoted(error, 200)}")
