"""One picture as an array: the same rules for training data and for the pages that explain a network.

A file can hold more than grey levels from 0 to 255: transparency, 16 bits, a palette, inks instead of light, or how the
camera was held. Each of these, read without care, gives another picture and no error. So all pictures are read here.
"""

import io
import math
import os

import numpy as np

from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.datasets.png import SIGNATURE, chunk_error
from minicnn.storage.files import reading

MAX_PIXELS = 50_000_000  # of one picture; a small file can claim billions
MAX_BYTES = 2**29  # of one file

#: For each EXIF orientation, how the stored rows (H, W) become the picture as it was seen.
_ORIENTATIONS = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}
_EXIF_ORIENTATION, _TIFF_BITS, _TIFF_PHOTOMETRIC = 274, 258, 262  # numbers of tags


def read_image(source, invert=False, mode="L", size=None, into=None):
    """A picture of any format that Pillow reads, as an array.

    - Transparent pictures are laid on a ground: on white if what is drawn is dark on average, as ink on paper, and on
      black if it is light. So the drawing stays visible. On one ground for all, black ink on black would be all black.
    - 16-bit grey is scaled, so that 65535 becomes 255. Floating point and 32-bit integers are refused: nothing in such
      a file says which value is white.
    - A picture with an EXIF orientation is turned upright. Of an animation, the first frame is read.
    - Colours become grey by ITU-R 601: 0.299 R + 0.587 G + 0.114 B.

    Args:
        source: the path of a file, or its content as bytes.
        invert: True for dark letters on a light ground, where light on dark is needed: 255 - value.
        mode: "L" for grey, "RGB" for colour.
        size: (H, W) in pixels that the stored picture must have, checked before it is decoded; None for any.
        into: (H, W) that the picture will be scaled to fit into: a much larger JPEG is then decoded at a half, a
            quarter or an eighth of its size, which is faster; None for its own size.

    Returns:
        uint8 (H, W), or (H, W, 3) for "RGB"; 0 is black.

    Raises:
        FileError: the file cannot be read, is a pipe or a device, is not a picture, is broken (a PNG also if one of its
            checksums is wrong), has another size, or more than 50 million pixels.
        InputError: another mode.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[0, 257, 65535]], "uint16")).save(file, "PNG")
    >>> read_image(file.getvalue()), read_image(file.getvalue(), invert=True)
    (array([[  0,   1, 255]], dtype=uint8), array([[255, 254,   0]], dtype=uint8))
    """
    if mode not in ("L", "RGB"):
        raise InputError(f"mode needs 'L' or 'RGB', got {quoted(mode)}")
    is_content = isinstance(source, (bytes, bytearray, memoryview))
    data = bytes(source) if is_content else _file_content(source)
    try:
        pixels = _decode(data, mode, size, into)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their lines raise for a broken file
        name = "the picture" if is_content else quoted(source, 300)
        raise FileError(f"{name} cannot be read: {_reason(error)}") from error
    return np.ascontiguousarray(255 - pixels if invert else pixels)


def picture_size(path):
    """(H, W) of a picture as it is stored; its pixels are not decoded.

    Raises:
        FileError: as for `read_image`.
    """
    from PIL import Image

    with reading(path, "a picture"):
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except Exception as error:  # Pillow's readers raise whatever their lines raise for a broken file
            raise FileError(f"{quoted(path, 300)} cannot be read: {_reason(error)}") from error


def read_fitted(source, size, invert=False, mode="L"):
    """A picture of any size as an image for a network: `read_image`, then `fit_into`.

    Training, prediction and the explain page read pictures by this function.

    Args:
        source, invert, mode: as for `read_image`.
        size: (H, W) of the result in pixels; None for the picture's own.

    Returns:
        uint8 (C, H, W), with C = 1 for "L" and 3 for "RGB".

    Raises:
        FileError, InputError: as for `read_image`.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 20), "white").save(file, "PNG")
    >>> read_fitted(file.getvalue(), (4, 4))
    array([[[  0,   0,   0,   0],
            [255, 255, 255, 255],
            [255, 255, 255, 255],
            [  0,   0,   0,   0]]], dtype=uint8)
    """
    return fit_into(read_image(source, invert, mode, into=size), size)


def fit_into(pixels, size):
    """A picture scaled so that it fits into (H, W); its aspect ratio is kept, and the rest is black.

    Args:
        pixels: uint8 (H, W) or (H, W, 3), as `read_image` returns it.
        size: (H, W) of the result; None for the picture's own.

    Returns:
        uint8 (C, H, W), with C = 1 or 3.

    >>> fit_into(np.full((4, 8), 200, "uint8"), (2, 2))
    array([[[200, 200],
            [  0,   0]]], dtype=uint8)
    """
    if size is None or pixels.shape[:2] == tuple(size):
        return _channels_first(pixels)
    from PIL import Image

    (H, W), (height, width) = size, pixels.shape[:2]
    scale = min(H / height, W / width)
    h, w = max(1, min(H, round(scale * height))), max(1, min(W, round(scale * width)))
    scaled = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS))
    top, left = (H - h) // 2, (W - w) // 2
    fitted = np.zeros((H, W, *pixels.shape[2:]), dtype=np.uint8)
    fitted[top : top + h, left : left + w] = scaled
    return _channels_first(fitted)


def _channels_first(pixels):
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def _file_content(path):
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"a picture is given by its path or as bytes, got {type(path).__name__}")
    with reading(path, "a picture"):
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise FileError(f"{quoted(path, 300)} has {size} bytes, a picture at most {MAX_BYTES}")
        with open(path, "rb") as file:
            return file.read()


class _UnreadableError(Exception):
    """A picture that cannot be read; the message is the reason."""


def _reason(error):
    """A short reason without Pillow's references to objects of Python."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture, or of an unknown format"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, _UnreadableError) else f"it is broken ({quoted(text)[1:-1]})"


def _decode(data, mode, size, into):
    from PIL import Image

    if not data:
        raise _UnreadableError("it is empty")
    if data.startswith(SIGNATURE) and (error := chunk_error(data)):  # Pillow does not check all of them
        raise _UnreadableError(error)
    with Image.open(io.BytesIO(data)) as image:
        W, H = image.size
        if size is not None and tuple(size) != (H, W):
            raise _UnreadableError(f"{W} x {H} pixels")
        if W * H > MAX_PIXELS:
            raise _UnreadableError(f"{W} x {H} pixels are too many")
        if image.format == "EPS":
            raise _UnreadableError("EPS is a program, not a picture: save it as PNG")
        if into is not None and image.format == "JPEG":
            image.draft(None, _draft_size((W, H), into))
        image.load()
        pixels, alpha = _pixels_and_alpha(image, mode)
        if alpha is not None:
            pixels = _composite(pixels, alpha)
        orientation = image.getexif().get(_EXIF_ORIENTATION)  # asked after load: Pillow turns a TIFF itself
    return _ORIENTATIONS.get(orientation, lambda x: x)(pixels)


def _draft_size(stored, wanted):
    """The smallest (W, H) to decode for a picture that is then scaled into (H, W): twice the sides that it gets.

    Twice, because the decoder averages blocks of pixels, and the last step of scaling is to be a good one. EXIF may
    exchange the sides of the picture, so the larger result of both ways counts.
    """
    (W, H), (h, w) = stored, wanted
    scale = 2 * max(min(w / W, h / H), min(w / H, h / W))
    return math.ceil(scale * W), math.ceil(scale * H)


def _pixels_and_alpha(image, mode):
    """uint8 pixels (H, W) or (H, W, 3), and the opacity uint8 (H, W), or None for an opaque picture."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        alpha = image.info.get("transparency")  # the value that is transparent
        if alpha is not None:
            alpha = np.where(values == alpha, 0, 255).astype(np.uint8)
        tags = getattr(image, "tag_v2", {})
        white = 2 ** (tags.get(_TIFF_BITS, (16,))[0]) - 1  # a TIFF may have 12 bits
        pixels = ((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
        if tags.get(_TIFF_PHOTOMETRIC) == 0:  # 0 is white; Pillow turns only 8 bits
            pixels = 255 - pixels
        return (pixels if mode == "L" else np.stack([pixels] * 3, axis=2)), alpha
    if image.mode in ("F", "I"):
        kind = "floating point numbers" if image.mode == "F" else "32-bit integers"
        raise _UnreadableError(f"its pixels are {kind}, and which one is white is not known: save it with 8 or 16 bits")
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        image = image.convert("RGBA")
        return np.asarray(image.convert(mode)), np.asarray(image)[..., 3]
    return np.asarray(image.convert(mode)), None


def _composite(pixels, alpha):
    """Pixels on white if they are dark on average, weighted by their opacity; on black if they are light."""
    alpha = alpha.astype(np.uint16).reshape(alpha.shape + (1,) * (pixels.ndim - 2))
    drawn = (pixels * alpha).mean(dtype=np.float64) / 255
    ground = 255 if drawn <= alpha.mean(dtype=np.float64) / 2 else 0
    return ((pixels * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)
