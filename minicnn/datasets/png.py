"""A decoder for many small PNGs together, for files in one plain form.

Each row of a PNG is stored as a filter type and the differences between the pixels and the filter's prediction, which
is computed from the pixels to the left and above. To undo that in Python, pixel after pixel, is far too slow for single
images. For thousands of images of the same size, each step is one array operation over all of them. Files in any other
form are decoded by Pillow.

Source: ISO/IEC 15948, "Portable network graphics (PNG): functional specification", 2004.
"""

import contextlib
import itertools
import struct
import sys
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = 33  # bytes of the signature and the header chunk (IHDR)
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def decode_plain(files, height, width):
    """The pixels of plain PNGs: 8-bit grey, not interlaced, of this size, one data chunk, no optional chunks.

    Args:
        files: a list of bytes, one PNG each.
        height, width: in pixels.

    Returns:
        plain: bool (N,), which files are plain and intact; the others need a complete PNG library.
        images: uint8 (N, height, width); zeros for a file that is not plain.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.array([[1, 2], [3, 4]], "uint8")).save(file, "PNG")
    >>> plain, images = decode_plain([file.getvalue(), b"not a PNG"], 2, 2)
    >>> plain, images[0]
    (array([ True, False]), array([[1, 2],
           [3, 4]], dtype=uint8))
    """
    header = struct.pack(">4sII5B", b"IHDR", width, height, 8, 0, 0, 0, 0)
    start = SIGNATURE + b"\x00\x00\x00\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    size = height * (1 + width)
    plain, rows = np.zeros(len(files), dtype=bool), bytearray()
    for index, data in enumerate(files):
        compressed = data[_START + 8 : -16]
        if (
            data[:_START] == start
            and data[_START : _START + 8] == len(compressed).to_bytes(4, "big") + b"IDAT"
            and data[-16:-12] == zlib.crc32(data[_START + 4 : -16]).to_bytes(4, "big")
            and data[-12:] == _END
            and len(compressed) < 2 * size + 100  # bounds the memory that decompression can take
        ):
            try:
                decompressed = zlib.decompress(compressed)
            except zlib.error:
                continue
            if len(decompressed) == size:
                plain[index] = True
                rows += decompressed
    images = np.zeros((len(files), height, width), dtype=np.uint8)
    stored = np.frombuffer(rows, dtype=np.uint8).reshape(-1, height, 1 + width)
    valid = (stored[:, :, 0] <= 4).all(axis=1)
    plain[np.flatnonzero(plain)[~valid]] = False
    images[plain] = _undo_filters(stored[valid])
    return plain, images


def chunk_error(data):
    """What is wrong with the chunks of a PNG: a checksum, or a missing end. None if nothing is.

    Pillow checks neither in every case, and decodes some broken files into another picture without an error.

    >>> chunk_error(b"\\x89PNG\\r\\n\\x1a\\n" + _END), chunk_error(b"\\x89PNG\\r\\n\\x1a\\n" + _END[:-1])
    (None, 'it is truncated')
    """
    data = memoryview(data)
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"the checksum of its chunk {bytes(data[position + 4 : position + 8])!r} is wrong"
        if data[position + 4 : position + 8] == b"IEND":
            return None
        position = end + 4
    return "it is truncated"


def _undo_filters(stored):
    """Pixels (N, H, W) from stored rows (N, H, 1 + W), computed in uint8: its sums are modulo 256, as in PNG."""
    pixels = stored[:, :, 1:].copy()
    above = np.zeros_like(pixels[:, 0])  # (N, W)
    for h in range(pixels.shape[1]):
        row, filter_type = pixels[:, h], stored[:, h, 0]
        row += above * (filter_type == 2)[:, None]
        for number, undo in ((1, _sub), (3, _average), (4, _paeth)):
            chosen = np.flatnonzero(filter_type == number)
            if len(chosen):
                row[chosen] = undo(row[chosen].T.copy(), above[chosen].T.copy()).T
        above = row
    return pixels


def _sub(row, above):  # (W, n), as in the two functions below
    return np.cumsum(row, axis=0, dtype=np.uint8)


def _average(row, above):
    left = np.zeros_like(row[0])
    for w in range(len(row)):
        row[w] += (left & above[w]) + ((left ^ above[w]) >> 1)  # the mean, rounded down, without leaving uint8
        left = row[w]
    return row


def _paeth(row, above):
    """Add the neighbour (left, above or above left) whose value is nearest to left + above - above left."""
    above = above.astype(np.int16)
    left = above_left = np.zeros_like(above[0])
    for w in range(len(row)):
        to_left, to_above = above[w] - above_left, left - above_left
        to_above_left = abs(to_left + to_above)
        to_left, to_above = abs(to_left), abs(to_above)
        nearest = np.where(to_above <= to_above_left, above[w], above_left)
        nearest = np.where((to_left <= to_above) & (to_left <= to_above_left), left, nearest)
        row[w] += nearest.astype(np.uint8)
        left, above_left = row[w].astype(np.int16), above[w]
    return row


class Decoder:
    """`decode_plain` for a sequence of batches: a second process decodes while this process reads the next batch.

    With threads, the many short steps of reading and of decoding would wait for each other: 36 microseconds per image
    instead of 18. The second process is started with the second batch, and runs only this file. Reading a batch takes
    less time than decoding it, so this process decodes a fifth of each batch itself. If the second process cannot be
    started, or ends, this process decodes the complete batch.

    Args:
        height, width: of every image, in pixels.
    """

    def __init__(self, height, width):
        self.size = height, width
        self.files = None
        self.process = None

    def send(self, files):
        """Start decoding a batch: a list of bytes, one PNG each. Call `receive` before the next `send`."""
        if self.files is not None and self.process is None:
            import subprocess  # here, so that `import minicnn` is quick

            with contextlib.suppress(OSError, TypeError):
                command = [sys.executable, __file__, *map(str, self.size)]
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.files, self.n_remote = files, len(files) - len(files) // 5
        if self.process is not None:
            try:
                remote = files[: self.n_remote]
                lengths = np.array([len(remote), *map(len, remote)], dtype=np.uint32)
                self.process.stdin.write(lengths.tobytes() + b"".join(remote))
                self.process.stdin.flush()
            except OSError:
                self.close()

    def receive(self):
        """The result of `decode_plain` for the batch."""
        (height, width), count = self.size, self.n_remote
        if self.process is not None:
            plain_local, images_local = decode_plain(self.files[count:], height, width)
            plain = self.process.stdout.read(count)
            pixels = self.process.stdout.read(count * height * width)
            if len(plain) == count and len(pixels) == count * height * width:
                plain = np.concatenate([np.frombuffer(plain, dtype=bool), plain_local])
                images = np.frombuffer(pixels, dtype=np.uint8).reshape(count, height, width)
                return plain, np.concatenate([images, images_local])
            self.close()
        return decode_plain(self.files, height, width)

    def close(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _serve(height, width):
    """The loop of the second process: read a batch from stdin, write the decoded pixels to stdout, until stdin ends."""
    while count := sys.stdin.buffer.read(4):
        (count,) = struct.unpack("=I", count)
        offsets = np.cumsum([0, *np.frombuffer(sys.stdin.buffer.read(4 * count), dtype=np.uint32)])
        data = sys.stdin.buffer.read(int(offsets[-1]))
        plain, images = decode_plain([data[start:end] for start, end in itertools.pairwise(offsets)], height, width)
        sys.stdout.buffer.write(plain.tobytes() + images.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
