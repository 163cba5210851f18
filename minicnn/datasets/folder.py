"""Pictures of your own: a folder with one subfolder for each class.

    pictures/cat/1.jpg           or  pictures/train/cat/1.jpg
    pictures/cat/2.png               pictures/test/cat/7.jpg
    pictures/dog/holiday/3.jpg       pictures/validation/dog/9.jpg

The class is the name of the first folder; below it, pictures may lie in folders of any depth. Where the first folders
are called train and test (or validation), that is the split. Other folders are split here, at random, with copies of a
picture and pictures of one group on the same side.

Pictures are decoded once, in all cores, and stored as arrays in the cache. The next start reads none of them.
"""

import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import sys
import tempfile
import unicodedata
from collections.abc import Callable

import numpy as np

from minicnn.console import SafeStream, warn
from minicnn.core.checks import check_flag, check_fraction, check_integer, is_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.types import Path
from minicnn.datasets.archives import is_clutter
from minicnn.datasets.cache import cached
from minicnn.datasets.dataset import Dataset
from minicnn.datasets.images import MAX_PIXELS, fit_into, read_image
from minicnn.datasets.preprocessing import bright_borders, warn_of_borders
from minicnn.datasets.splits import Rows, merge_groups, stratified_split
from minicnn.storage.files import cache_folder, reading

#: What the folders of a split may be called.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val"),
}
MAX_PICTURES = 2**24
LARGE = 2**28  # bytes of decoded pictures; more than that are collected in a temporary file and not in memory
BATCH = 64  # pictures that are decoded together
_FORMAT = 1  # version of the cache
_LIGHT_ON_DARK = "what is added to make a picture square is dark, too"

#: A file: its name (the path from the folder on), its path, its split or None, its class, and its size and time.
Picture = collections.namedtuple("Picture", "name path split label stamp")


def load_folder(
    path: Path,
    size: int | tuple[int, int] | None = None,
    *,
    mode: str = "L",
    test: float = 0.1,
    invert: bool = False,
    group: Callable[[str], str] | None = None,
    seed: int = 0,
    follow_links: bool = False,
    cache: bool = True,
) -> Dataset:
    """The pictures of a folder that has one subfolder for each class: `(x_train, y_train), (x_test, y_test)`.

    Every format that Pillow reads is read as `read_image` does: transparency, 16 bits, palettes, inks (CMYK) and the
    orientation in EXIF are taken into account. Hidden files are ignored.

    Args:
        path: the folder: subfolders named by class, or train/ and test/ (or validation/) with such subfolders. It may
            also lie in another folder, as after unpacking an archive.
        size: (H, W) in pixels. A picture of another size is scaled to fit, its aspect ratio is kept, and the rest is
            black (0). None where all pictures have the same size.
        mode: "L" for grey, "RGB" for colour.
        test: the fraction of every class held out for the test, where the folder is not split already.
        invert: True for dark on light, where light on dark is wanted: 255 - value, before the black is added.
        group: a function of a picture's name, such as "cat/tom/1.jpg", that returns the name of its group (an animal,
            a person, a day, a font). The pictures of one group stay on the same side of the split.
        seed: of the split.
        follow_links: also read what links inside the folder point to.
        cache: store the arrays on disk and read them from there the next time. Without it, all of them must fit in
            the memory.

    Returns:
        a `Dataset`: `(x_train, y_train), (x_test, y_test)`, and `classes`, the names of the subfolders in
        alphabetical order, and `names`, those of the files. `validation` is a third pair if the folder has train/,
        test/ and validation/; of train/ and validation/ alone, the second is the test.

        images: uint8 (N, C, H, W), C = 1 or 3, shuffled unless the folder was split; with the cache, in files of which
        only the part in use is in memory.
        labels: int64 (N,), indices into `classes`.

    Raises:
        FileError: no such folder; no pictures in it; a class without a readable picture; pictures of different sizes
            without `size`; a class in test/ that train/ does not have.
        InputError: an invalid argument.

    Warns:
        UserWarning: files were left out: their number and the first names. Or, in grey, the border of most pictures is
            bright, which may mean dark drawings on a light ground.

    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, colour in [("sky", (90, 160, 240)), ("sun", (250, 220, 40))]:
    ...     (folder / name).mkdir()
    ...     for number in range(4):
    ...         Image.new("RGB", (30 + number, 20), colour).save(folder / name / f"{number}.jpg")
    >>> data = load_folder(folder, size=(16, 16), mode="RGB", test=0.25, cache=False)
    >>> (x_train, y_train), (x_test, y_test) = data
    >>> x_train.shape, data.classes, sorted(y_test.tolist())
    ((6, 3, 16, 16), ['sky', 'sun'], [0, 1])
    """
    import PIL

    size, invert, follow_links = _check(size, mode, test, invert, group, follow_links)
    seed = check_integer(seed, "seed", "load_folder", minimum=0)
    folder, classes, pictures, left_out = find_pictures(path, follow_links)
    groups = None if group is None else [_group_of(group, picture.name) for picture in pictures]
    files = [[picture.name, picture.label, picture.split, *picture.stamp] for picture in pictures]
    key = [_FORMAT, PIL.__version__, str(folder.resolve()), size, mode, repr(test), invert, seed, classes]
    key.append(hashlib.sha256(json.dumps([files, groups]).encode()).hexdigest())

    def make():
        return _read_pictures(folder, pictures, classes, groups, size, mode, invert, test, seed)

    arrays = cached("folder", key, make, use=cache)
    notes = json.loads(arrays["notes"].tobytes())
    skipped = left_out + [tuple(pair) for pair in notes["skipped"]]
    if skipped:
        shown = ", ".join(f"{quoted(name)} ({quoted(reason)[1:-1]})" for name, reason in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        warn(f"{len(skipped)} files of {quoted(folder, 300)} were left out: {shown}{more}")
    if mode == "L" and not invert:
        warn_of_borders(folder, notes["bright"], _LIGHT_ON_DARK)
    pairs, names = {}, {}
    for split in SPLITS:
        if f"{split}_images" in arrays:
            pairs[split] = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            names[split] = [pictures[index].name for index in arrays[f"{split}_indices"]]
    return Dataset(pairs["train"], pairs["test"], classes, pairs.get("validation"), skipped, names)


def check_size(size, owner):
    """`size` as (H, W), or None.

    Raises:
        InputError: anything but None and two integers of at least 1, or more pixels than a picture may have.
    """
    if size is None:
        return None
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not (is_pair and all(is_integer(side, minimum=1) for side in size) and size[0] * size[1] <= MAX_PIXELS):
        raise InputError(f"{owner} needs size as (height, width) in pixels, or None, got {quoted(size)}")
    return int(size[0]), int(size[1])


def _check(size, mode, test, invert, group, follow_links):
    if mode not in ("L", "RGB"):
        raise InputError(f"load_folder needs mode 'L' (grey) or 'RGB', got {quoted(mode)}")
    check_fraction(test, "test")
    if group is not None and not callable(group):
        raise InputError(f"load_folder needs group as a function of a picture's name, got {quoted(group)}")
    flags = check_flag(invert, "invert", "load_folder"), check_flag(follow_links, "follow_links", "load_folder")
    return check_size(size, "load_folder"), *flags


def _group_of(group, name):
    try:
        return str(group(name))
    except Exception as error:
        reason = f"{type(error).__name__}: {quoted(error)[1:-1]}"
        raise InputError(f"the function group failed for {quoted(name)}: {reason}") from error


# Which files there are


def find_pictures(path, follow_links=False):
    """The files of a folder of pictures; none of them is opened.

    Args:
        path: as for `load_folder`.
        follow_links: also what links inside the folder point to.

    Returns:
        path: the folder that has the subfolders; the given one, or one that is the only thing in it.
        classes: the names of the classes, in alphabetical order.
        pictures: a list of `Picture`, in the order of their names.
        left_out: (name, reason) of each file that is not in the folder of a class, or not a regular file, or a link.

    Raises:
        FileError: it is not such a folder.
        InputError: not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"load_folder needs the path of a folder, got {quoted(path)}")
    with reading(path, "a folder of pictures"):
        path = pathlib.Path(path)
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise FileError(f"{quoted(path, 300)} {what}: give a folder with one subfolder for each class")
        path, folders = _inner(path, follow_links)
        roots, left_out = _roots(path, folders)
        classes, pictures = set(), []
        for split, root in roots:
            if split in (None, "train"):
                classes |= {_class_name(folder.name) for folder in _folders(root, follow_links)}
            for file, reason in find_files(root, follow_links):
                name, *inner = file.relative_to(root).parts
                reason = reason or ("" if inner else "not in the folder of a class")
                if reason:
                    left_out.append((file.relative_to(path).as_posix(), reason))
                    continue
                info = os.stat(file)
                stamp = info.st_size, info.st_mtime_ns
                pictures.append(Picture(file.relative_to(path).as_posix(), file, split, _class_name(name), stamp))
                if len(pictures) > MAX_PICTURES:
                    raise FileError(f"{quoted(path, 300)} has more than {MAX_PICTURES} files")
        _check_classes(path, classes, pictures, folders)
        return path, sorted(classes), pictures, left_out


def _inner(path, follow_links):
    """The folder that has several subfolders, or pictures in its only one, and its subfolders."""
    folders = _folders(path, follow_links)
    while len(folders) == 1 and len(_entries(path)) == 1 and _folders(folders[0], follow_links):
        path, folders = folders[0], _folders(folders[0], follow_links)
    return path, folders


def _roots(path, folders):
    """(split, folder) of each folder with subfolders for the classes, and (name, reason) of those beside them."""
    splits = [next((split for split, names in SPLITS.items() if f.name.lower() in names), None) for f in folders]
    if "train" not in splits or not {"test", "validation"} & set(splits):
        return [(None, path)], []
    if "test" not in splits:
        splits = ["test" if split == "validation" else split for split in splits]
    pairs = list(zip(splits, folders, strict=True))
    beside = [(f"{folder.name}/", "beside train/ and test/") for split, folder in pairs if split is None]
    return [(split, folder) for split, folder in pairs if split is not None], beside


def _check_classes(path, classes, pictures, folders):
    """Raise a FileError unless there are two classes, each with a file to train on, and no others in the test."""
    if not pictures:
        found = ", ".join(quoted(folder.name) for folder in folders[:5]) or "none"
        raise FileError(
            f"{quoted(path, 300)} needs one subfolder of pictures for each class, such as cat/1.jpg; its subfolders: "
            f"{found}"
        )
    unknown = sorted({picture.label for picture in pictures} - classes)
    if unknown:
        example = next(picture.name for picture in pictures if picture.label == unknown[0])
        raise FileError(f"{quoted(path, 300)} has no class {quoted(unknown[0])} in train/, but {quoted(example)}")
    if len(classes) < 2:
        raise FileError(
            f"{quoted(path, 300)} has one class, {quoted(next(iter(classes)))}: at least two subfolders are needed"
        )
    empty = sorted(classes - {picture.label for picture in pictures if picture.split in (None, "train")})
    if empty:
        raise FileError(f"{quoted(path, 300)}: the folder of class {quoted(empty[0])} has no pictures")


def _class_name(name):
    """A folder's name in one of the two ways in which Unicode writes an accent; systems differ in it."""
    return unicodedata.normalize("NFC", name)


def _entries(path):
    """What is in a folder and not hidden, sorted by name."""
    with os.scandir(path) as entries:
        shown = [e for e in entries if not (e.name.startswith(".") or e.name == "__MACOSX" or is_clutter(e.name))]
    return sorted(shown, key=lambda entry: entry.name)


def _folders(path, follow_links):
    return [pathlib.Path(e) for e in _entries(path) if _is_kind(e.is_dir, follow_symlinks=follow_links)]


def _is_kind(method, **options):
    """What a method of an entry answers; False for a link to itself."""
    with contextlib.suppress(OSError):
        return method(**options)
    return False


def find_files(root, follow_links=False):
    """(path, "") of each regular file below a folder, or (path, reason) of what is left out; no folder twice."""
    seen, remaining = {os.path.realpath(root)}, [root]
    while remaining:
        folders = []
        for entry in _entries(remaining.pop()):
            path = pathlib.Path(entry)
            if entry.is_symlink() and not follow_links:
                yield path, "a link: follow_links=True reads it"
            elif not _is_kind(entry.is_dir):
                yield path, "" if _is_kind(entry.is_file) else "not a regular file"
            elif os.path.realpath(path) in seen:
                yield path, "a folder that is read already"
            else:
                seen.add(os.path.realpath(path))
                folders.append(path)
        remaining += reversed(folders)


# Their pixels


def _read_pictures(path, pictures, classes, groups, size, mode, invert, test, seed):
    """The arrays of the data set, split, as a dictionary for the cache."""
    images, copies, kept, notes = _decode(path, pictures, size, mode, invert)
    labels = np.array([classes.index(pictures[index].label) for index in kept], dtype=np.int64)
    if pictures[0].split is None:
        group = copies
        if groups is not None:
            group = merge_groups(np.unique([groups[index] for index in kept], return_inverse=True)[1], copies)
        train, held_out = stratified_split(labels, test, np.random.default_rng(seed), group)
        rows = {"train": train, "test": held_out}
    else:
        splits = np.array([pictures[index].split for index in kept])
        rows = {split: np.flatnonzero(splits == split) for split in SPLITS if split in splits}
    trained = set(labels[rows.get("train", [])])
    missing = [name for k, name in enumerate(classes) if k not in trained]
    if missing or "test" not in rows:
        what = f"class {quoted(missing[0])}" if missing else "test/"
        reasons = [f"; {quoted(name)}: {reason}" for name, reason in notes["skipped"]]
        raise FileError(f"{quoted(path, 300)}: no picture of {what} can be read{reasons[0] if reasons else ''}")
    arrays = {"notes": np.frombuffer(json.dumps(notes).encode(), dtype=np.uint8)}
    for split, found in rows.items():
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = Rows(images, found), labels[found]
        arrays[f"{split}_indices"] = np.array(kept)[found]
    return arrays


def _decode(path, pictures, size, mode, invert):
    """All pictures that can be read.

    Returns:
        images: uint8 (N, C, H, W).
        copies: (N,) integers, the same for pictures with the same pixels.
        kept: for each image its index in `pictures`.
        notes: {"skipped": [(name, reason), ...], "bright": the fraction of pictures with a bright border}.
    """
    import concurrent.futures

    from tqdm import tqdm

    stream = SafeStream(sys.stderr)
    title = f"reading {quoted(path.name, 40)[1:-1]}"
    bar = tqdm(desc=title, total=len(pictures), unit=" files", file=stream, disable=not stream.isatty())
    file, shape, copies, kept, skipped, bright = None, None, [], [], [], 0
    read = functools.partial(_read_or_reason, size=size, mode=mode, invert=invert)
    with (
        bar,
        contextlib.ExitStack() as at_the_end,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,  # Pillow decodes outside of Python's lock
    ):
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            for index, found in enumerate(pool.map(read, batch), start):
                if isinstance(found, str):
                    skipped.append((pictures[index].name, found))
                    continue
                image, is_bright = found
                if file is None:
                    file, shape = at_the_end.enter_context(_open_for(len(pictures) * image.nbytes)), image.shape
                if image.shape != shape:
                    raise FileError(
                        f"the pictures of {quoted(path, 300)} have different sizes: {quoted(pictures[index].name)} has "
                        f"{image.shape[2]} x {image.shape[1]} pixels, {quoted(pictures[kept[0]].name)} {shape[2]} x "
                        f"{shape[1]}: choose a size, such as size=(64, 64)"
                    )
                _append(file, image)
                copies.append(int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "big"))
                kept.append(index)
                bright += is_bright
            bar.update(len(batch))
        if file is None:
            reason = f"{quoted(skipped[0][0])}: {skipped[0][1]}"
            raise FileError(f"{quoted(path, 300)} has no picture that can be read; {reason}")
        images = _as_array(file, (len(kept), *shape))
    notes = {"skipped": skipped, "bright": bright / len(kept)}
    return images, np.array(copies, dtype=np.uint64), kept, notes


def _read_or_reason(picture, size, mode, invert):
    """(uint8 (C, H, W), whether its border is bright), or the reason why the picture cannot be read."""
    try:
        pixels = read_image(picture.path, invert, mode, into=size)
    except FileError as error:
        return str(error).rpartition("cannot be read: ")[2]
    return fit_into(pixels, size), mode == "L" and bright_borders(pixels[None]) > 0


def _open_for(n_bytes):
    """A file for the pixels: in memory, or without a name on the disk of the cache if they are many."""
    if n_bytes <= LARGE:
        return io.BytesIO()
    folder = None
    with contextlib.suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        folder = cache_folder()
    return tempfile.TemporaryFile(dir=folder)


def _append(file, image):
    """Write an image; a full disk is an error here, which a write into mapped memory could not report."""
    try:
        file.write(image)
    except OSError as error:
        raise FileError(f"the pictures cannot be stored: {error.strerror}") from error


def _as_array(file, shape):
    """What was written, as an array (N, C, H, W)."""
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getvalue(), dtype=np.uint8).reshape(shape)
    file.flush()
    return np.memmap(file, dtype=np.uint8, mode="r", shape=shape)
