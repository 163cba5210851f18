"""Texts that change a page, a message or a terminal where they are not escaped; and files that are broken at random."""

import html.parser
import pathlib
import random
import resource
import subprocess
import sys

import minicnn as mc

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{data}} {{page}} {{title}} {{body}} /*DATA*/ /*PAGE*/ __DATA__ TITLE BODY $& $1 \\1 \\g<0>",
    "\u2028\u2029\x00\x1b[31m\r\udcff",
    "\N{GRINNING FACE} &lt;b&gt; $x^{2$",
)


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, [name for name, _ in attributes]))

    def handle_data(self, data):
        self.texts.append(data)


def tags(page):
    """The elements of a page with the names of their attributes, as a parser finds them."""
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return parser.tags


def texts(page):
    """What stands between a page's elements, as one text."""
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return "".join(parser.texts)


def mutated(data):
    """The bytes with one to eight random changes: bits and bytes, and pieces left out, put in or copied."""
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        position = random.randrange(len(data))
        change = random.randrange(6)
        if change == 0:
            data[position] ^= 1 << random.randrange(8)
        elif change == 1:
            data[position] = random.randrange(256)
        elif change == 2:
            del data[position : position + random.choice([1, 4, 100, 10**6])]
        elif change == 3:
            data[position:position] = random.randbytes(random.choice([1, 4, 100]))
        elif change == 4:
            data[position : position + 8] = random.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, b"99999999"])
        else:
            other = random.randrange(len(data))
            data[position : position + 30] = data[other : other + 30]
        if not data:
            break
    return bytes(data)


def load_broken_files(count, write, load, memory, check=lambda loaded: None):
    """Load `count` broken files, and print how many are refused; only in a process of its own, see `count_refused`.

    A file is refused with the library's own error, and not because the memory is used up.

    Args:
        count: how many files.
        write: a function of a number, from 0 on, that writes the file.
        load: a function that loads it.
        memory: how many bytes the process may use beyond those that it has already.
        check: a function of what `load` returned that raises where it is wrong.
    """
    limit = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # of its own time, however busy the machine is
    refused = 0
    for number in range(count):
        write(number)
        try:
            loaded = load()
        except mc.MinicnnError as error:
            assert not isinstance(error.__cause__, MemoryError)
            refused += 1
        else:
            check(loaded)
    print(refused)


def count_refused(code):
    """Run code that ends with `load_broken_files` in a new process; returns how many files are refused."""
    tests = str(pathlib.Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {tests!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)
