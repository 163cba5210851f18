"""The report of a run: a folder of pictures, and one page, `index.html`, that ties them together (`--report DIR`)."""

import html
import os
import pathlib
import platform
import secrets
from importlib.metadata import version

import numpy as np

import minicnn as mc
from minicnn.datasets import LETTERS
from minicnn.files import write_whole
from minicnn.progress import html_table

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbf9; --panel: #fff; --ink: #1c1d20; --line: #d9dade; --link: #6a3fb5; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16171a; --panel: #1f2125; --ink: #ececee; --line: #383b41; --link: #b79bf0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1220px; padding: 20px 24px 48px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 23px; margin: 0; } h2 { font-size: 18px; margin: 30px 0 6px; }
h3 { font-size: 15px; margin: 14px 0 6px; }
p { margin: 0 0 10px; max-width: 90ch; } a { color: var(--link); }
.row { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
.panel, figure { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; margin: 0 0 14px; }
.panel { background: var(--panel); overflow-x: auto; font-size: 13px; } figure { background: #fff; width: fit-content; }
figure img { display: block; max-width: 100%; height: auto; }
.settings { flex: 1 1 320px; } .settings tr > * { text-align: left !important; overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; }
table { border-collapse: collapse; margin-bottom: 8px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 8px; border-bottom: 1px solid var(--line); vertical-align: top; }
@media (min-width: 900px) { .fit { flex-wrap: nowrap; } .fit figure { flex: 0 1 auto; min-width: 0; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
{body}
</html>
"""


def prepare(folder):
    """Find out before any work whether a report can be made: matplotlib is there, the folder can be written.

    Raises:
        MissingPackageError, FileError: it cannot; nothing is left behind.
    """
    mc.plots.empty_figure(1, 1)
    folder = pathlib.Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}"
        with write_whole(trial):
            pass
        trial.unlink()
        if made:
            folder.rmdir()  # an interrupted run leaves no empty folder
    except OSError as error:
        raise mc.FileError(f"the report's folder {folder} cannot be written: {error}") from error


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
    _empty(folder)

    def picture(name, about, figure):
        _write(folder / f"{name}.png", plots.png(figure, dpi=160))
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        return f'<figure><img src="{name}.png" alt="{html.escape(about)}" width="{width}" height="{height}"></figure>'

    page = [
        _section("The run"),
        '<div class="row"><div class="panel settings">',
        html_table(["setting", "value"], [[name, str(value)] for name, value in (settings | _versions()).items()]),
        f'</div><div class="panel summary">{model._repr_html_()}</div></div>',
        _section("Training curves"),
    ]
    if any(history.values()):
        page.append(picture("training-curves", "loss and accuracy after each epoch", plots.training_curves(history)))
    else:
        page.append("<p>The training ended before its first epoch was done.</p>")
    page += [
        _section("Right and wrong"),
        "<p>Each row of the confusion matrix is a letter, each column what the network takes it for: what stands off "
        "the diagonal is wrong. Beside it are the test images that the network is surest of and wrong.</p>",
        '<div class="row fit">',
        picture(
            "confusion-matrix", "which letter is taken for which", plots.confusion_matrix(y, probabilities, LETTERS)
        ),
        picture("confident-mistakes", "the surest mistakes", plots.confident_mistakes(probabilities, x, y, LETTERS)),
        "</div>",
        _section("Kernels and feature maps"),
    ]
    if convolutions:
        page.append(
            "<p>A kernel's picture is what it looks for: it adds up the pixels under orange weights and takes away "
            "those under blue ones. A feature map shows where it found that; its image is the first of those below.</p>"
        )
        page += [picture(f"kernels-{name}", f"kernels of {name}", plots.kernels(model, name)) for name in convolutions]
        maps = plots.feature_maps(model, x[next(iter(shown.values()))])
        page.append(picture("feature-maps", "what each layer makes of the image", maps))
    else:
        page.append("<p>This network has no convolutions, and so neither kernels nor feature maps to show.</p>")
    page += [
        _section("Three images"),
        "<p>Saliency is the gradient of the letter's score with respect to each pixel. Occlusion is how much of the "
        "letter's probability is lost when a grey patch lies there. Both are of the letter that the network says. The "
        "link leads to a page on which every number of the image's way through the network and back can be traced.</p>",
    ]
    for case, index in shown.items():
        said, name = int(probabilities[index].argmax()), case.split()[0].rstrip(",")
        mc.explain(model, x[index], int(y[index]), LETTERS).save(folder / f"explain-{name}.html")
        page += [
            f"<h3>{case.capitalize()}: test image {index}, labelled {LETTERS[y[index]]}, taken for {LETTERS[said]} "
            f'with {100 * probabilities[index, said]:.1f} %. <a href="explain-{name}.html">See every number</a></h3>',
            '<div class="row fit">',
            picture(f"saliency-{name}", f"saliency, {case}", plots.saliency(model, x[index], said, LETTERS)),
            picture(f"occlusion-{name}", f"occlusion, {case}", plots.occlusion(model, x[index], said, names=LETTERS)),
            "</div>",
        ]
    accuracy = 100 * (probabilities.argmax(axis=1) == y).mean()
    head = f"{html.escape(title)}: {accuracy:.2f} % of {len(y):,} test images right"
    _write(folder / "index.html", PAGE.format(title=head, style=STYLE, body="\n".join(page)).encode())


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
        found["wrong, and sure of it"] = int(wrong[0])
    return found


def _versions():
    names = {"Python": platform.python_version(), "NumPy": np.__version__, "matplotlib": version("matplotlib")}
    return {
        "versions": ", ".join(f"{name} {text}" for name, text in {"minicnn": mc.__version__, **names}.items()),
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
    }


def _section(title):
    return f"<h2>{title}</h2>"


def _empty(folder):
    """Make the folder; an older page in it does not belong to the pictures to come."""
    try:
        folder.mkdir(exist_ok=True)
        (folder / "index.html").unlink(missing_ok=True)
    except OSError as error:
        raise mc.FileError(f"the report's folder {folder} cannot be written: {error}") from error


def _write(path, content):
    with write_whole(path) as file:
        file.write(content)
