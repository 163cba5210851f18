"""Saved models: what is written comes back; what is cut, altered, newer or strange is refused."""

import io
import json
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from hostile import count_refused
from layer_cases import CASES, all_layers
from test_training import small_model

import minicnn as mc


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.npz"
    small_model(seed=3, dropout=True).save(path)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path, saved_bytes):
    path = tmp_path / "model.npz"
    path.write_bytes(saved_bytes)
    return path


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def array_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def described(path, change):
    """The same file with another description, everything else (the checksums too) as it should be."""
    contents = members(path)
    description = json.loads(np.load(io.BytesIO(contents["description.npy"])).tobytes())
    description = change(description) or description
    text = json.dumps(description).encode()
    contents["description.npy"] = array_bytes(np.frombuffer(text, np.uint8))
    write(path, contents)


@all_layers
def test_every_layer_comes_back_as_it_was(make, shape, tmp_path, rng):
    model = mc.Sequential([make()], input_shape=shape, seed=1)
    path = tmp_path / "model.npz"
    model.save(path)
    back = mc.load(path)
    assert repr(back.layers[0]) == repr(model.layers[0])
    x = rng.normal(size=(2, *shape)).astype("float32")
    np.testing.assert_array_equal(back.predict(x), model.predict(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_whole(dtype, tmp_path, rng):
    model = small_model(seed=5, dtype=dtype)
    model.save(tmp_path / "model.npz")
    back = mc.load(tmp_path / "model.npz")
    assert (back.seed, back.dtype, back.input_shape, back.names) == (5, np.dtype(dtype), (1, 8, 8), model.names)
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(back.parameters()[name].value, parameter.value)
        assert back.parameters()[name].value.dtype == dtype
    x = rng.random((4, 1, 8, 8))
    np.testing.assert_array_equal(back.predict(x), model.predict(x))
    back.fit(x, np.array([0, 1, 2, 0]), epochs=1, verbose=False)  # and can be trained on


def test_the_file_is_plain_numpy_without_pickle(saved):
    with np.load(saved, allow_pickle=False) as file:
        assert "conv2d_1.weight" in file.files
        for name in file.files:
            assert file[name].dtype != object


def test_an_own_layer_needs_its_class(tmp_path):
    class Twice(mc.Layer):
        def forward(self, x, training=False):
            return 2 * x, lambda dy: 2 * dy

    model = mc.Sequential([Twice(), mc.Dense(2)], input_shape=(3,))
    model.save(tmp_path / "own.npz")
    with pytest.raises(mc.FileError, match="Twice"):
        mc.load(tmp_path / "own.npz")
    assert isinstance(mc.load(tmp_path / "own.npz", custom_layers=[Twice]).layers[0], Twice)


def test_an_unbuilt_model_is_not_saved(tmp_path):
    with pytest.raises(mc.InputError, match="input_shape"):
        mc.Sequential([mc.Dense(2)]).save(tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


def set_key(key, value):
    return lambda description: description.update({key: value})


def change_layer(**options):
    return lambda description: description["layers"][0]["arguments"].update(options)


def deep(count):
    value = []
    for _ in range(count):
        value = [value]
    return value


DESCRIPTIONS = {
    "of a newer version": (set_key("version", 3), "version 3"),
    "of an older version": (set_key("version", 1), "version 1"),
    "of a version that is no number": (set_key("version", "1"), "version"),
    "of another kind": (set_key("minicnn", "checkpoint"), "checkpoint"),
    "without layers": (lambda d: d.pop("layers") and None, "layers"),
    "of an unknown layer": (lambda d: d["layers"][0].update(library="os.system"), "os.system"),
    "of a library layer that is a custom one": (lambda d: d["layers"][0].pop("library") and None, "network"),
    "of a layer with an unknown option": (change_layer(depth=3), "depth"),
    "of other filters": (change_layer(filters=4), "conv2d_1"),
    "of very many filters": (change_layer(filters=10**12), "Conv2D"),
    "of a negative kernel": (change_layer(kernel_size=-1), "kernel_size"),
    "of a wrong dtype": (set_key("dtype", "float16"), "float16"),
    "of a huge input": (set_key("input_shape", [1, 10**9, 10**9]), "model"),
    "of no shape": (set_key("input_shape", "wide"), "description"),
    "that is a list": (lambda d: [1, 2], "description"),
    "of an input without axes": (set_key("input_shape", []), "network"),
    "of very deep lists": (change_layer(padding=deep(600)), "network"),
    "of nested lists": (set_key("layers", [[[[]]]]), "description"),
}


@pytest.mark.parametrize(("change", "named"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description_that_does_not_fit_is_refused(saved, change, named):
    described(saved, change)
    with pytest.raises(mc.FileError, match=named):
        mc.load(saved)


def replace(name, data):
    def change(contents):
        contents[name] = data

    return change


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/minicnn-was-here",)


HEADER = array_bytes(np.zeros((8, 27), "float32"))[:128]
LYING = HEADER.replace(b"(8, 27)", b"(80000, 2700000)")
ARRAYS = {
    "a missing array": lambda c: c.pop("dense_1.bias.npy") and None,
    "an array too many": replace("extra.npy", array_bytes(np.zeros(3))),
    "another shape": replace("dense_1.bias.npy", array_bytes(np.zeros(9, "float32"))),
    "another dtype": replace("dense_1.bias.npy", array_bytes(np.zeros(8, "float64"))),
    "other values": replace("dense_1.bias.npy", array_bytes(np.ones(8, "float32"))),
    "a pickle": replace("dense_1.bias.npy", array_bytes(np.array([Evil()] * 8, dtype=object))),
    "a bare pickle": replace("dense_1.bias.npy", pickle.dumps(Evil())),
    "a header that claims more": replace("dense_1.weight.npy", LYING + b"0" * 9),
    "a header that is code": replace("dense_1.bias.npy", HEADER.replace(b"'<f4'", b"exit()") + b"0" * 32),
    "no array at all": replace("dense_1.bias.npy", b"hello"),
    "no description": lambda c: c.pop("description.npy") and None,
    "something beside the arrays": replace("../../outside.txt", b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_do_not_fit_are_refused(saved, change, tmp_path):
    contents = members(saved)
    change(contents)
    write(saved, contents)
    with pytest.raises(mc.FileError, match=r"model\.npz"):
        mc.load(saved)
    assert not pathlib.Path("/tmp/minicnn-was-here").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.npz"]


def test_a_bomb_is_refused(saved):
    """Megabytes of zeros, packed into kilobytes."""
    contents = members(saved)
    contents["dense_1.weight.npy"] = array_bytes(np.zeros(2**20, "float32")) + bytes(2**22)
    write(saved, contents, zipfile.ZIP_DEFLATED)
    with pytest.raises(mc.FileError, match="compressed"):
        mc.load(saved)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99, -1])
def test_a_cut_file_is_refused(saved, kept):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(mc.FileError, match=r"model\.npz"):
        mc.load(saved)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "numpy.npz", a=np.zeros(3))
    for name in ("missing.npz", "pipe", "text.npz", "numpy.npz", "."):
        with pytest.raises(mc.FileError):
            mc.load(tmp_path / name)


FUZZ = """
import pathlib, random, warnings
import minicnn as mc, numpy as np
from hostile import load_broken_files, mutated
from test_training import small_model, small_set
warnings.simplefilter("ignore")
folder, kind = pathlib.Path({folder!r}), {kind!r}
path = folder / "mutated.npz"
x, y = small_set(12)
if kind == "model":
    model = small_model(dropout=True)
    model.save(folder / "good.npz")
else:
    model = small_model(dropout=True)
    model.fit(x, y, epochs=1, verbose=False, checkpoint=folder / "good.npz")
good = (folder / "good.npz").read_bytes()
expected = [p.value.copy() for p in model.parameters().values()]
random.seed({seed})
back = None

def write(number):
    for rest in folder.glob("mutated.npz.*"):
        rest.unlink()
    path.write_bytes(mutated(good))

def load():
    global back
    if kind == "model":
        return mc.load(path)
    back = back or small_model(dropout=True)  # a model that was given a broken file can be used again
    back.fit(x, y, epochs=1, verbose=False, checkpoint=path, resume=True)
    return back

def check(model):
    global back
    for a, b in zip(expected, model.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b.value)
    back = None

load_broken_files({count}, write, load, memory=2**27, check=check)
"""


FUZZ_DESCRIPTION = """
import json, pathlib, random, sys, warnings
import minicnn as mc, numpy as np
from hostile import load_broken_files
from test_storage import described
from test_training import small_model, small_set
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".* is continued by ")  # another number of processes makes sense
folder, kind = pathlib.Path({folder!r}), {kind!r}
path = folder / "mutated.npz"
x, y = small_set(40)
random.seed({seed})

class Cut(mc.Callback):
    armed = False
    def on_batch_end(self, batch, loss):
        if self.armed and self.optimizer.steps == 7:
            raise EOFError

def resume(resume=True, armed=False):
    cut = Cut()
    cut.armed = armed
    watchers = [
        mc.EarlyStopping("loss", patience=9, restore_best_weights=True), mc.ReduceLROnPlateau("loss"),
        mc.CSVLogger(folder / "log.csv"),
        mc.ModelCheckpoint(folder / "best.npz", monitor="loss", save_best_only=True), cut,
    ]
    optimizer = mc.SGD(0.01, momentum=0.9) if kind == "SGD" else mc.Adam()
    model = small_model(dropout=True)
    model.fit(x, y, epochs=2, batch_size=8, optimizer=optimizer, verbose=False, checkpoint=path, checkpoint_every=None,
              resume=resume, callbacks=watchers)

def load_and_predict():
    model = mc.load(path)
    if np.prod(model.input_shape) < 10**5:
        model.predict(np.zeros((2, *model.input_shape), "float32"))

if kind == "model":
    small_model(dropout=True).save(path)
    load = load_and_predict
else:
    try:
        resume(False, True)
    except EOFError:
        pass
    load = resume
good = path.read_bytes()

def deep(count):
    value = []
    for _ in range(count):
        value = [value]
    return value

VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 10**400, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", "x", "nan", "Dense", "SGD", "Constant", "<f4", "(((", "\\0", "dense_1.weight", [], dict(), [0],
    [[1, 2], [3, 4]], [1] * 1000, deep(600), deep(900), dict(function="f"), {{"class": "WarmUp", "schedule": 1}},
    {{"class": "StepDecay", "learning_rate": 0.1, "every": 1, "factor": 1e300}},
]

TEXTS = [json.dumps(value) for value in VALUES]

def places(value, found):
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found

def mutate(description, number):
    kept = {{name: description.pop(name) for name in ("checksums", "minicnn", "version")}}
    groups = {groups!r} or list(description)
    for again in range(random.choice([1, 1, 1, 2, 5])):
        # Each group in turn, and each place of it, and sometimes others with it. Long lists of numbers, such as the
        # shapes, would take most of the choices among all places.
        group = random.choice(groups) if again else groups[number % len(groups)]
        if group not in description:
            break
        found = places(description, [])
        within = [(description, group), *places(description[group], [])]
        container, key = random.choice(within) if again else within[number // len(groups) % len(within)]
        how = random.randrange(4)
        if how < 2:
            container[key] = json.loads(random.choice(TEXTS))
        elif how == 2:
            del container[key]
        elif isinstance(container, list):
            container.insert(key, json.loads(json.dumps(container[key])))
        else:
            other, place = random.choice(found)
            value = 3 if isinstance(other[place], (dict, list)) else other[place]
            container[random.choice([key, str(place)])] = value
    description |= kept

def write(number):
    for file in folder.glob("mutated.npz*"):
        file.unlink()
    path.write_bytes(good)
    sys.setrecursionlimit(10**4)  # for us, who make it
    described(path, lambda description: mutate(description, number))
    sys.setrecursionlimit(1000)

load_broken_files({count}, write, load, memory=2**28)
"""


#: Which groups of a file's description are changed; of the second optimizer those that differ from the first one's.
CHANGES = [("model", 1000, ()), ("SGD", 320, ()), ("Adam", 80, ["optimizer", "optimizer_settings"])]


@pytest.mark.parametrize(("kind", "count", "groups"), CHANGES)
def test_descriptions_of_anything_with_right_checksums_give_the_librarys_own_error(tmp_path, kind, count, groups):
    """Somebody who writes the checksums too can say what he likes; it is used if it makes sense, or refused."""
    code = FUZZ_DESCRIPTION.format(folder=str(tmp_path), kind=kind, count=count, groups=groups, seed=1)
    assert count_refused(code) > 0.5 * count


@pytest.mark.parametrize(("kind", "count"), [("model", 2500), ("checkpoint", 700)])
def test_mutated_files_give_the_librarys_own_error(tmp_path, kind, count):
    """Thousands of broken files: each is refused, or (what was changed does not matter) gives what was saved."""
    code = FUZZ.format(folder=str(tmp_path), kind=kind, count=count, seed=1)
    assert count_refused(code) > 0.8 * count


def test_every_layer_of_the_library_is_in_the_list_of_cases():
    """So that the round trip above, and all common checks, miss none."""
    assert {type(make()).__name__ for make, _ in CASES} == set(mc.layers.LAYERS)
