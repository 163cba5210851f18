"""Synthetic letters: data that is drawn by the program and needs no download.

The letters A to J are drawn in every available font, large at first. Each one
is made bolder or lighter, rotated, sheared, scaled and warped at random, and
is sometimes only an outline. Then it is scaled to an image of 28 x 28 pixels
that it fills from edge to edge, light on dark, as in notMNIST. Synthetic
letters are easier than real ones, so an accuracy on them is always printed
together with the name "synthetic letters".
"""

import hashlib
import importlib.util
import io
import pathlib
from collections.abc import Sequence

import numpy as np

from minicnn.console import warn
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import FileError
from minicnn.core.types import Path
from minicnn.datasets.cache import cached
from minicnn.datasets.dataset import Dataset
from minicnn.storage.files import reading

LETTERS = "ABCDEFGHIJ"
DESCRIPTION = "synthetic letters A to J, drawn from the fonts at hand"
_FORMAT = 1  # version of the drawing code: a new number makes old caches invalid
_SIZE = 72  # of the font, in pixels: large, then scaled down, so that edges become grey
_CANVAS = 128  # pixels
_SYMBOLS = (
    "cmsy",
    "cmex",
    "cmmi",
    "STIXSiz",
    "STIXNonUni",
    "DejaVuSansDisplay",
    "DejaVuSerifDisplay",
    "LastResort",
)  # matplotlib's fonts without plain letters


def load_letters(
    train: int = 10000, test: int = 2000, seed: int = 0, fonts: Sequence[Path] | None = None, cache: bool = True
) -> Dataset:
    """Synthetic letters A to J: `(x_train, y_train), (x_test, y_test)`.

    The fonts are Pillow's own, those of matplotlib if it is installed, and those in the folder `fonts`. With four
    fonts or more, the test letters come from fonts that are not used for the training letters.

    Args:
        train, test: the number of training and of test letters.
        seed: of all random choices. The same seed, fonts and version of Pillow produce the same bits.
        fonts: a folder of additional .ttf and .otf files, or None.
        cache: store the letters on disk and read them from there the next time.

    Returns:
        a `Dataset` with the classes A to J.

        images: uint8 (N, 28, 28), from 0 (dark background) to 255 (light letter).
        labels: int64 (N,), 0 for A to 9 for J, all equally frequent, shuffled.

    Raises:
        FileError: `fonts` is not a folder, or has no font with the letters A to J.
        InputError: `train` or `test` is not an integer of at least 1, or `seed` not one of at least 0.

    >>> (x_train, y_train), (x_test, y_test) = load_letters(train=100, test=20, cache=False)
    >>> x_train.shape, x_train.dtype, y_test.shape
    ((100, 28, 28), dtype('uint8'), (20,))
    """
    import PIL

    train = check_integer(train, "train", "load_letters")
    test = check_integer(test, "test", "load_letters")
    seed = check_integer(seed, "seed", "load_letters", minimum=0)
    found = _fonts(fonts)
    key = [_FORMAT, PIL.__version__, np.__version__, train, test, seed, [digest for _, digest, _ in found]]

    def make():
        train_fonts, test_fonts = _split_fonts([font for _, _, font in found], np.random.default_rng([seed, 2]))
        x_train, y_train = _draw(train, train_fonts, np.random.default_rng([seed, 0]))
        x_test, y_test = _draw(test, test_fonts, np.random.default_rng([seed, 1]))
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}

    sets = cached("letters", key, make, use=cache)
    return Dataset((sets["x_train"], sets["y_train"]), (sets["x_test"], sets["y_test"]), list(LETTERS))


def _fonts(folder):
    """The available fonts: (name, digest of the file, Pillow font), in an order that does not change."""
    from PIL import ImageFont

    default = ImageFont.load_default(_SIZE)
    found = [("Pillow's own", "default", default)]
    paths = []
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        paths += sorted((pathlib.Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf").glob("*.ttf"))
        paths = [path for path in paths if not path.name.startswith(_SYMBOLS)]
    own = []
    if folder is not None:
        with reading(folder, "a folder"):
            folder = pathlib.Path(folder)
            if not folder.is_dir():
                raise FileError(f"{quoted(folder, 300)} is not a folder: give the folder with the .ttf or .otf files")
            own = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".ttf", ".otf")]
            own = [path for path in own if not path.name.startswith("._")]  # macOS's, beside the real files
    usable = 0
    for path in paths + own:
        try:
            with reading(path, "a font"):
                data = path.read_bytes()
            font = ImageFont.truetype(io.BytesIO(data), _SIZE)
            shapes = {font.getmask(letter).getbbox() and bytes(font.getmask(letter)) for letter in LETTERS}
        except (OSError, ValueError) as error:
            warn(f"{quoted(path, 300)} is skipped: it cannot be read as a font ({quoted(error)[1:-1]})")
            continue
        if len(shapes) < len(LETTERS) or None in shapes:
            warn(f"{quoted(path, 300)} is skipped: it does not have the letters A to J")
            continue
        usable += path in own
        found.append((path.name, hashlib.sha256(data).hexdigest(), font))
    if folder is not None and not usable:
        raise FileError(f"{quoted(folder, 300)} contains no font (.ttf, .otf) with the letters A to J")
    return found


def _split_fonts(fonts, rng):
    """Fonts for training and for testing: different ones if there are at least four."""
    if len(fonts) < 4:
        return fonts, fonts
    order = rng.permutation(len(fonts))
    held_out = max(1, len(fonts) // 5)
    return [fonts[i] for i in order[held_out:]], [fonts[i] for i in order[:held_out]]


def _draw(count, fonts, rng):
    """`count` letters, all classes equally frequent, in random order."""
    images = np.empty((count, 28, 28), dtype=np.uint8)
    labels = rng.permutation(np.arange(count) % len(LETTERS))
    templates = {}
    for i, label in enumerate(labels):
        font = int(rng.integers(len(fonts)))
        stroke = int(rng.choice([0, 0, 0, 1, 2, 3, 4]))
        outline = stroke > 1 and rng.random() < 0.3
        key = font, int(label), stroke, outline
        if key not in templates:
            templates[key] = _draw_template(fonts[font], LETTERS[label], stroke, outline)
        images[i] = _distort(templates[key], rng)
    return images, labels.astype(np.int64)


def _draw_template(font, letter, stroke, outline):
    """A letter drawn large in the center of a canvas: made bold by its stroke, or only the stroke."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (_CANVAS, _CANVAS))
    center = _CANVAS / 2
    ImageDraw.Draw(image).text(
        (center, center),
        letter,
        font=font,
        anchor="mm",
        fill=0 if outline else 255,
        stroke_width=stroke,
        stroke_fill=255,
    )
    return image


def _distort(template, rng):
    """The letter rotated, sheared, scaled and warped, then scaled so that its longer side has 28 pixels."""
    from PIL import Image, ImageFilter

    if rng.random() < 0.15:
        template = template.filter(ImageFilter.MinFilter(3))  # thinner strokes than in the font
    angle, shear = rng.normal(0, 0.25), rng.normal(0, 0.3)
    scale_x, scale_y = np.exp(rng.normal(0, 0.25, size=2))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 / scale_x, shear], [0, 1 / scale_y]])
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * (_CANVAS / 2)
    corners = corners @ matrix.T * 1.1 + rng.normal(0, 10, size=(4, 2)) + _CANVAS / 2
    image = template.transform(
        (_CANVAS, _CANVAS), Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR
    )
    box = image.getbbox() or (0, 0, _CANVAS, _CANVAS)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = 28 / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = image.resize(size, Image.Resampling.BOX, box=box)
    fitted = Image.new("L", (28, 28))
    fitted.paste(small, ((28 - size[0]) // 2, (28 - size[1]) // 2))
    return _add_artifacts(np.asarray(fitted, dtype=np.float32), rng)


def _add_artifacts(pixels, rng):
    """Artifacts as in decorative fonts: negatives, stripes, missing pieces, low contrast with noise."""
    style = rng.random()
    if style < 0.1:  # dark on a light background
        pixels = 255 - pixels
    elif style < 0.2:  # stripes, horizontal or diagonal
        row, column = np.indices(pixels.shape)
        period, slope = rng.integers(3, 7), rng.integers(-1, 2)
        pixels = pixels * ((row + slope * column) % period > 0)
    elif style < 0.35:  # a piece is missing
        top, left = rng.integers(0, 22, size=2)
        pixels = pixels.copy()
        pixels[top : top + rng.integers(4, 12), left : left + rng.integers(4, 12)] = 0
    if rng.random() < 0.3:
        pixels = pixels * rng.uniform(0.4, 1) + rng.normal(0, 16, size=pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)
