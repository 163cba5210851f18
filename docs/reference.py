"""Builds the reference: one page for each module that a user reaches, from the docstrings, by pdoc.

    python docs/reference.py            writes into docs/reference/, which is not kept in the repository
    python docs/reference.py FOLDER     writes into a folder of your own

`index.html` there is the first page, with a search field. `pip install 'minicnn-numpy[docs]'` installs pdoc.
"""

import pathlib
import sys

from minicnn import exchange

#: What a user reaches: the package itself, and the modules whose functions have their own names.
MODULES = [
    "minicnn",
    "minicnn.backends",
    "minicnn.core",
    "minicnn.core.gradcheck",
    "minicnn.core.im2col",
    "minicnn.core.initializers",
    "minicnn.core.layers",
    "minicnn.core.losses",
    "minicnn.core.metrics",
    "minicnn.core.operations",
    "minicnn.core.optimizers",
    "minicnn.core.schedules",
    "minicnn.core.types",
    "minicnn.core.window",
    "minicnn.datasets",
    "minicnn.exchange",
    "minicnn.inspect",
    "minicnn.inspect.attribution",
    "minicnn.inspect.plots",
    "minicnn.networks",
    "minicnn.testing",
]


def build(folder):
    """Write the pages.

    Args:
        folder: where to; it is made where it is missing.

    Returns:
        the folder, a `pathlib.Path`.
    """
    import pdoc

    for name in exchange.__all__:  # which imports the module of a function when it is asked for
        setattr(exchange, name, getattr(exchange, name))
    pdoc.render.configure(docformat="google", footer_text="minicnn")
    modules = {name: pdoc.doc.Module.from_name(name) for name in MODULES}
    pages = {
        name.replace(".", "/") + ".html": pdoc.render.html_module(module, modules) for name, module in modules.items()
    }
    pages["index.html"] = pdoc.render.html_index(modules)
    pages["search.js"] = pdoc.render.search_index(modules)
    for name, text in pages.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return pathlib.Path(folder)


if __name__ == "__main__":
    print(build(sys.argv[1] if sys.argv[1:] else pathlib.Path(__file__).with_name("reference")) / "index.html")
