"""Many small PNGs at once: pixels from files that all have one plain form.

Each row of a PNG is stored as a filter's number and the differences to what the filter predicts from the pixels before
and above. To undo that, pixel after pixel, takes Python far too long for one image; for thousands of images of one size
each step is one array operation over all of them. What has another form is left to Pillow.

Source: ISO/IEC 15948, "Portable network graphics (PNG): functional specification", 2004.
"""

import contextlib
import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np

_START = 33  # bytes of the signature and the header chunk
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def decode_plain(files, height, width):
    """The pixels of PNGs that are plain: 8-bit grey, not interlaced, of this size, with nothing but their pixels.

    Args:
        files: a list of bytes, one PNG each.
        height, width: in pixels.

    Returns:
        plain: bool (N,), which files were plain and whole; the others are for a real PNG library to judge.
        images: uint8 (N, height, width); zero where a file was not plain.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[1, 2], [3, 4]], "uint8")).save(file, "PNG")
    >>> plain, images = decode_plain([file.getvalue(), b"no PNG"], 2, 2)
    >>> plain, images[0]
    (array([ True, False]), array([[1, 2],
           [3, 4]], dtype=uint8))
    """
    header = struct.pack(">4sII5B", b"IHDR", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    size = height * (1 + width)
    plain, rows = np.zeros(len(files), dtype=bool), bytearray()
    for number, data in enumerate(files):
        packed = data[_START + 8 : -16]
        if (
            data[:_START] == start
            and data[_START : _START + 8] == len(packed).to_bytes(4, "big") + b"IDAT"
            and data[-16:-12] == zlib.crc32(data[_START + 4 : -16]).to_bytes(4, "big")
            and data[-12:] == _END
            and len(packed) < 2 * size + 100  # what unpacks to more than that cannot fill the memory
        ):
            try:
                unpacked = zlib.decompress(packed)
            except zlib.error:
                continue
            if len(unpacked) == size:
                plain[number] = True
                rows += unpacked
    images = np.zeros((len(files), height, width), dtype=np.uint8)
    stored = np.frombuffer(rows, dtype=np.uint8).reshape(-1, height, 1 + width)
    known = (stored[:, :, 0] <= 4).all(axis=1)
    plain[np.flatnonzero(plain)[~known]] = False
    images[plain] = _unfiltered(stored[known])
    return plain, images


def _unfiltered(stored):
    """Pixels (N, H, W) from rows as they are stored (N, H, 1 + W): in uint8, whose sums are modulo 256 as PNG's are."""
    pixels = stored[:, :, 1:].copy()
    above = np.zeros_like(pixels[:, 0])  # (N, W)
    for h in range(pixels.shape[1]):
        row, kind = pixels[:, h], stored[:, h, 0]
        row += above * (kind == 2)[:, None]
        for number, undo in ((1, _sub), (3, _average), (4, _paeth)):
            chosen = np.flatnonzero(kind == number)
            if len(chosen):
                row[chosen] = undo(row[chosen].T.copy(), above[chosen].T.copy()).T
        above = row
    return pixels


def _sub(row, above):  # (W, n), as in the two below
    return np.cumsum(row, axis=0, dtype=np.uint8)


def _average(row, above):
    left = np.zeros_like(row[0])
    for w in range(len(row)):
        row[w] += (left & above[w]) + ((left ^ above[w]) >> 1)  # the mean, rounded down, without leaving uint8
        left = row[w]
    return row


def _paeth(row, above):
    """Of the neighbours left, above and above left, the one nearest to left + above - above left."""
    above = above.astype(np.int16)
    left = corner = np.zeros_like(above[0])
    for w in range(len(row)):
        to_left, to_above = above[w] - corner, left - corner
        to_corner = abs(to_left + to_above)
        to_left, to_above = abs(to_left), abs(to_above)
        nearest = np.where(to_above <= to_corner, above[w], corner)
        nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
        row[w] += nearest.astype(np.uint8)
        left, corner = row[w].astype(np.int16), above[w]
    return row


class Decoder:
    """`decode_plain` for one batch after the other, from the second on in another process while this one reads on.

    In threads, the many short steps of reading and of decoding would wait for each other: 36 microseconds an image
    instead of 18. This process, which has time left when it has read the next batch, then decodes a fifth itself. The
    other one runs this file alone. Where there is none, or it dies, the whole batch is decoded here.

    Args:
        height, width: of all images, in pixels.
    """

    def __init__(self, height, width):
        self.size = height, width
        self.files = None
        self.process = None

    def send(self, files):
        """Hand a batch over: a list of bytes, one PNG each. `receive` must follow before the next."""
        if self.files is not None and self.process is None:
            with contextlib.suppress(OSError, TypeError):
                command = [sys.executable, __file__, *map(str, self.size)]
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.files, self.there = files, len(files) - len(files) // 5
        if self.process is not None:
            try:
                sent = files[: self.there]
                lengths = np.array([len(sent), *map(len, sent)], dtype=np.uint32)
                self.process.stdin.write(lengths.tobytes() + b"".join(sent))
                self.process.stdin.flush()
            except OSError:
                self.close()

    def receive(self):
        """What `decode_plain` returns for the batch."""
        (height, width), count = self.size, self.there
        if self.process is not None:
            plain_here, images_here = decode_plain(self.files[count:], height, width)
            plain = self.process.stdout.read(count)
            pixels = self.process.stdout.read(count * height * width)
            if len(plain) == count and len(pixels) == count * height * width:
                plain = np.concatenate([np.frombuffer(plain, dtype=bool), plain_here])
                images = np.frombuffer(pixels, dtype=np.uint8).reshape(count, height, width)
                return plain, np.concatenate([images, images_here])
            self.close()
        return decode_plain(self.files, height, width)

    def close(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _serve(height, width):
    """The other process: batches come in, and go out decoded, until there are no more."""
    while count := sys.stdin.buffer.read(4):
        (count,) = struct.unpack("=I", count)
        edges = np.cumsum([0, *np.frombuffer(sys.stdin.buffer.read(4 * count), dtype=np.uint32)])
        data = sys.stdin.buffer.read(int(edges[-1]))
        plain, images = decode_plain([data[a:b] for a, b in itertools.pairwise(edges)], height, width)
        sys.stdout.buffer.write(plain.tobytes() + images.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
