"""Letters drawn on the spot: data that needs no download.

The letters A to J in every font at hand, each drawn large, made bolder or
lighter, slanted, turned and bent at random, sometimes as an outline only, and
then fitted to 28 x 28 pixels from edge to edge, light on dark, as notMNIST's
are. They are synthetic, and easier than real ones: an accuracy on them says
so wherever it is printed.
"""

import hashlib
import importlib.util
import io
import pathlib
import warnings

import numpy as np

from minicnn.checks import whole_number
from minicnn.datasets.cache import cached
from minicnn.errors import FileError

LETTERS = "ABCDEFGHIJ"
DESCRIPTION = "synthetic letters A to J, drawn from the fonts at hand"
_FORMAT = 1  # of the drawing: another number makes old caches void
_SIZE = 72  # of the font, in pixels: large, then made small, so that edges come out grey
_CANVAS = 128
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


def load_letters(train=10000, test=2000, seed=0, fonts=None, cache=True):
    """Synthetic letters A to J: `(x_train, y_train), (x_test, y_test)`.

    The fonts are Pillow's own, matplotlib's where it is installed, and those of a folder that the caller names.
    With four fonts or more, the test letters come from fonts that the training letters never showed.

    Args:
        train, test: how many letters of each kind.
        seed: of every variation. The same seed, fonts and Pillow give the same bits.
        fonts: a folder of .ttf and .otf files to draw from besides, or None.
        cache: keep the letters on disk and read them from there the next time.

    Returns:
        images: uint8 (N, 28, 28), from 0 (dark ground) to 255 (light letter).
        labels: int64 (N,), 0 for A to 9 for J, all equally frequent, shuffled.

    Raises:
        FileError: `fonts` is no folder, or has no font with the letters A to J.
        InputError: `train` or `test` is no whole number of at least 1.

    >>> (x_train, y_train), (x_test, y_test) = load_letters(train=100, test=20, cache=False)
    >>> x_train.shape, x_train.dtype, y_test.shape
    ((100, 28, 28), dtype('uint8'), (20,))
    """
    import PIL

    train = whole_number(train, "train", "load_letters")
    test = whole_number(test, "test", "load_letters")
    seed = whole_number(seed, "seed", "load_letters", least=0)
    found = _fonts(fonts)
    key = [_FORMAT, PIL.__version__, np.__version__, train, test, seed, [digest for _, digest, _ in found]]

    def make():
        train_fonts, test_fonts = _divided([font for _, _, font in found], np.random.default_rng([seed, 2]))
        x_train, y_train = _draw(train, train_fonts, np.random.default_rng([seed, 0]))
        x_test, y_test = _draw(test, test_fonts, np.random.default_rng([seed, 1]))
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}

    sets = cached("letters", key, make, use=cache)
    return (sets["x_train"], sets["y_train"]), (sets["x_test"], sets["y_test"])


def _fonts(folder):
    """The fonts at hand: (name, digest of the file, Pillow font), in an order that does not change."""
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
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileError(f"{folder} is no folder: give the folder that holds the .ttf or .otf files")
        own = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".ttf", ".otf"))
    usable = 0
    for path in paths + own:
        try:
            data = path.read_bytes()
            font = ImageFont.truetype(io.BytesIO(data), _SIZE)
            shapes = {font.getmask(letter).getbbox() and bytes(font.getmask(letter)) for letter in LETTERS}
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is left out: it cannot be read as a font ({error})", stacklevel=3)
            continue
        if len(shapes) < len(LETTERS) or None in shapes:
            warnings.warn(f"{path} is left out: it does not have the letters A to J", stacklevel=3)
            continue
        usable += path in own
        found.append((path.name, hashlib.sha256(data).hexdigest(), font))
    if folder is not None and not usable:
        raise FileError(f"{folder} holds no font (.ttf, .otf) with the letters A to J")
    return found


def _divided(fonts, rng):
    """Fonts for training and for testing: different ones where there are at least four."""
    if len(fonts) < 4:
        return fonts, fonts
    order = rng.permutation(len(fonts))
    held_out = max(1, len(fonts) // 5)
    return [fonts[i] for i in order[held_out:]], [fonts[i] for i in order[:held_out]]


def _draw(count, fonts, rng):
    """So many letters, all classes equally frequent, in random order."""
    images = np.empty((count, 28, 28), dtype=np.uint8)
    labels = rng.permutation(np.arange(count) % len(LETTERS))
    masters = {}
    for i, label in enumerate(labels):
        font = int(rng.integers(len(fonts)))
        stroke = int(rng.choice([0, 0, 0, 1, 2, 3, 4]))
        outline = stroke > 1 and rng.random() < 0.3
        key = font, int(label), stroke, outline
        if key not in masters:
            masters[key] = _master(fonts[font], LETTERS[label], stroke, outline)
        images[i] = _varied(masters[key], rng)
    return images, labels.astype(np.int64)


def _master(font, letter, stroke, outline):
    """A letter drawn large in the middle of a canvas: bold by its stroke, or nothing but the stroke."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (_CANVAS, _CANVAS))
    middle = _CANVAS / 2
    ImageDraw.Draw(image).text(
        (middle, middle),
        letter,
        font=font,
        anchor="mm",
        fill=0 if outline else 255,
        stroke_width=stroke,
        stroke_fill=255,
    )
    return image


def _varied(master, rng):
    """The letter turned, slanted, stretched and bent, then fitted to 28 x 28 from edge to edge."""
    from PIL import Image, ImageFilter

    if rng.random() < 0.15:
        master = master.filter(ImageFilter.MinFilter(3))  # lighter than the font is
    angle, slant = rng.normal(0, 0.25), rng.normal(0, 0.3)
    wide, high = np.exp(rng.normal(0, 0.25, size=2))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 / wide, slant], [0, 1 / high]])
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * (_CANVAS / 2)
    corners = corners @ matrix.T * 1.1 + rng.normal(0, 10, size=(4, 2)) + _CANVAS / 2
    image = master.transform(
        (_CANVAS, _CANVAS), Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR
    )
    box = image.getbbox() or (0, 0, _CANVAS, _CANVAS)
    wide, high = box[2] - box[0], box[3] - box[1]
    scale = 28 / max(wide, high)
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    small = image.resize(size, Image.Resampling.BOX, box=box)
    fitted = Image.new("L", (28, 28))
    fitted.paste(small, ((28 - size[0]) // 2, (28 - size[1]) // 2))
    return _decorated(np.asarray(fitted, dtype=np.float32), rng)


def _decorated(pixels, rng):
    """What fonts do to letters: negatives, stripes, pieces cut out, worn print."""
    style = rng.random()
    if style < 0.1:  # dark on a light ground
        pixels = 255 - pixels
    elif style < 0.2:  # stripes, straight or slanted
        row, column = np.indices(pixels.shape)
        period, lean = rng.integers(3, 7), rng.integers(-1, 2)
        pixels = pixels * ((row + lean * column) % period > 0)
    elif style < 0.35:  # a piece is missing
        top, left = rng.integers(0, 22, size=2)
        pixels = pixels.copy()
        pixels[top : top + rng.integers(4, 12), left : left + rng.integers(4, 12)] = 0
    if rng.random() < 0.3:
        pixels = pixels * rng.uniform(0.4, 1) + rng.normal(0, 16, size=pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)
