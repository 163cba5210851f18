"""Printing that never costs work.

A stream may be missing (`pythonw` has no `sys.stderr`), closed (`| head`), on
a full disk (`> log`), or unable to encode a character (on Windows a log is
often cp1252). A training run must not end for any of these. So the library
prints through `show`, which shows what it can and ignores the rest.
"""

import codecs
import contextlib
import os
import pathlib
import signal
import sys
import traceback
import unicodedata
import warnings

from minicnn.core.errors import MinicnnError

#: What stands for characters that a stream cannot encode and that Unicode does not decompose.
_ASCII = {"─": "-", "━": "-", "│": "|", "┃": "|", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "•": "*"}
_ASCII |= {"→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "“": '"', "”": '"', "‘": "'", "’": "'"}

_PACKAGE = pathlib.Path(__file__).parent


class SafeStream:
    """A stream whose `write`, `flush` and `isatty` never raise; all else is the stream's own.

    Args:
        stream: a text stream, or None for one that is missing.

    >>> import io
    >>> log = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    >>> SafeStream(log).write("3 × 3 ─ é")
    >>> log.buffer.getvalue()
    b'3 x 3 - e'
    """

    #: The last OSError of any stream, such as that of a full disk, or None; `run_command` reports it.
    failure = None

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        """Write and flush, as far as the stream can."""
        try:
            self._stream.write(encodable(text, getattr(self._stream, "encoding", None)))
            self._stream.flush()
        except OSError as error:
            SafeStream.failure = error
        except Exception:  # a stream may be of any class and raise anything
            pass

    def flush(self):
        """Flush, if the stream can."""
        with contextlib.suppress(Exception):
            self._stream.flush()

    def isatty(self):
        """Whether it is a terminal."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def __getattr__(self, name):
        return getattr(self._stream, name)


def show(text="", stream=None):
    """Print a line, as far as the stream can show it.

    Args:
        text: what to print; it is converted to text.
        stream: a text stream; `sys.stdout` where it is None.

    >>> show("epoch 1")
    epoch 1
    """
    SafeStream(sys.stdout if stream is None else stream).write(f"{text}\n")


def show_error(text):
    """Print a line on `sys.stderr`; where that is missing, nothing."""
    SafeStream(sys.stderr).write(f"{text}\n")


def warn(text):
    """`warnings.warn` of a UserWarning that names the line of the user's code; a closed `sys.stderr` is ignored."""
    stacklevel, frame = 2, sys._getframe(1)
    while frame is not None and _is_own(frame.f_code.co_filename):
        stacklevel, frame = stacklevel + 1, frame.f_back
    with contextlib.suppress(OSError, ValueError):  # not UserWarning, which a filter may turn into an error
        warnings.warn(text, stacklevel=stacklevel)


def _is_own(filename):
    return _PACKAGE in pathlib.Path(filename).parents


def is_notebook():
    """Whether this is a notebook, which can show a progress bar though its streams are not terminals."""
    with contextlib.suppress(Exception):
        return "IPKernelApp" in sys.modules["IPython"].get_ipython().config
    return False


def encodable(text, encoding):
    """A text in which what an encoding does not have is replaced by ASCII characters that look like it.

    Args:
        text: any text.
        encoding: its name; None for a stream that does not encode, such as `io.StringIO`.

    >>> encodable("a ─ b │ 3 × 3 … é 猫", "ascii")
    'a - b | 3 x 3 ... e ?'
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "minicnn.ascii").decode(encoding)


def _in_ascii(error):
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_replacement, error.object[error.start : error.end])), error.end


def _replacement(character):
    simple = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    box = "+" if "BOX DRAWINGS" in unicodedata.name(character, "") else "?"
    return _ASCII.get(character) or simple or box


codecs.register_error("minicnn.ascii", _in_ascii)


def run_command(main):
    """Run a program's main function; what it raises becomes a line on `sys.stderr`, and an exit code.

    Args:
        main: a function that returns an exit code, or None for 0.

    Returns:
        the exit code: that of `main`; 1 after an error of the library; 130 after Ctrl-C and 143 after SIGTERM, as
        shells have it. A stream that cannot be written does not change it: it says whether the work was done.
    """
    try:
        code = main() or 0
    except MinicnnError as error:
        show_error(f"error: {error}")
        code = 1
    except KeyboardInterrupt as error:  # also TrainingInterrupted
        show_error(f"\nstopped{f' by {error}' if str(error) else ''}")
        code = 128 + getattr(error, "signal", signal.SIGINT)
    finally:
        discard_unwritten()
    return code


def discard_unwritten():
    """Drop what a stream could not write, and report it; Python would complain at its exit, with the exit code 120."""
    failure, SafeStream.failure = SafeStream.failure, None
    if failure is not None and not isinstance(failure, BrokenPipeError):  # the reader of a pipe may leave, as head does
        show_error(f"not everything could be printed: {failure.strerror}")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            with contextlib.suppress(Exception), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def short_traceback(error):
    """An error as a notebook shows it: the lines of the user's code, and the message.

    IPython calls it for the library's errors. All frames stay in `error.__traceback__`, for `%debug`.

    Args:
        error: an exception.

    Returns:
        a list of lines.
    """
    lines, left_out = [], 0
    for frame in traceback.extract_tb(error.__traceback__):
        path = pathlib.Path(frame.filename)
        if _is_own(frame.filename):
            left_out += 1
        elif "IPython" not in path.parts:  # which runs the cell
            where = "cell" if path.parent.name.startswith("ipykernel_") else frame.filename
            lines.append(f"{where}, line {frame.lineno}: {frame.line}")
    if left_out:
        lines.append(f"({left_out} frames of minicnn are left out; %debug shows them)")
    return [*lines, f"{type(error).__name__}: {error}"]
