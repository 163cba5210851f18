"""A run that survives: everything of a `fit` in one file.

A training run can be killed at any moment. To continue to the same bits it
needs: the weights, the optimizer's memory and steps, the learning rate, the
callbacks' states, the layers' states and random generators, the history, and
the position: the epoch, the batch, and the sums from which the epoch's means
are computed. The order of the images is not in the file, since it follows from
the seed and the epoch. The file also keeps the settings that must be the same
when the run is resumed: the network, the data, the batch size and so on.

A new file replaces the old one only after it has been read back and verified;
and the old one is kept, as `<name>.previous`.
"""

import dataclasses
import inspect
import json
import math
import os
import re
import tempfile
import zlib

import numpy as np

from minicnn import console
from minicnn.core import operations, schedules
from minicnn.core.checks import quoted
from minicnn.core.errors import FileError, InputError
from minicnn.core.schedules import Constant
from minicnn.storage.arrays import ArrayFile, plain_dtype, write_arrays
from minicnn.storage.files import atomic_move, destination, remove_leftovers
from minicnn.storage.models import make_late_states, restore_states, states_of

#: What is added to a checkpoint's name for the files beside it.
SUFFIXES = ("", ".previous", ".new", ".lock")

#: What a checkpoint's description holds, and as what.
_FORM = {
    "settings": dict,
    "optimizer_settings": dict,
    "position": dict,
    "history": list,
    "optimizer": dict,
    "states": dict,
    "callbacks": list,
    "callback_arrays": dict,
}

PLAIN = (str, int, float, bool)

SCHEDULES = {
    kind.__name__: kind
    for kind in vars(schedules).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}


#: A number as a format string writes it into a path.
_NUMBER = r" *[-+]?[\d.,_]+(?:e[-+]?\d+)?%? *"


def check_outputs(checkpoint, callbacks):
    """Refuse a run in which one file would be written by the checkpoint and a callback, or by two callbacks.

    Args:
        checkpoint: the path of the checkpoint, or None.
        callbacks: the callbacks; `output` is the file that one writes, and may contain fields such as "{epoch}".

    Raises:
        InputError: there are two writers of one file, however its path is given; the message names both.
    """
    outputs = []
    if checkpoint is not None:
        path = os.path.normcase(destination(checkpoint, SUFFIXES))
        outputs = [(path + suffix, re.escape(path + suffix), "checkpoint=") for suffix in SUFFIXES]
    for callback in callbacks:
        if callback.output is None:
            continue
        path, name = os.path.normcase(destination(callback.output, ())), type(callback).__name__
        pattern = _NUMBER.join(map(re.escape, re.split(r"\{[^{}]*\}", path)))
        for other_path, other_pattern, other_name in outputs:
            if path == other_path or re.fullmatch(pattern, other_path) or re.fullmatch(other_pattern, path):
                raise InputError(
                    f"{name} and {other_name} would write the same file, {quoted(other_path, 300)}: give one of them "
                    "another path"
                )
        outputs.append((path, pattern, name))


class Checkpoint:
    """The file of one run.

    Args:
        path: the file; where it is a link, the file that it points to. Beside it there may be `<path>.previous`, the
            one before, `<path>.new`, one that was being made, and `<path>.lock` while a process works with it.
        run: the run, as `minicnn.training.Run`.
        settings: a dict of plain values that must be the same for a run to be resumed.

    On several ranks rank 0 alone reads and writes files, and the others take part: what it reads travels to them, and
    an error that it has is raised by all.

    Attributes:
        position: the run's position as it was last saved, or None.

    Raises:
        FileError: a name that no file can have, also with one of the `SUFFIXES`, or one of something else than a file.
    """

    def __init__(self, path, run, settings):
        self.run, self.ranks = run, run.ranks
        self.ranks.first(lambda: self._name_files(path))
        self.settings = as_json(settings)
        self.optimizer_settings = as_json(optimizer_settings(run.optimizer))
        self.saved = None
        self.position = None
        self.newest_is_intact = False

    def _name_files(self, path):
        self.path = destination(path, SUFFIXES)
        self.previous = self.path.with_name(self.path.name + ".previous")
        self.new = self.path.with_name(self.path.name + ".new")

    def open(self, resume):
        """Look for a run to resume, and refuse one that does not belong to these settings.

        Args:
            resume: whether to resume it.

        Raises:
            InputError: the file's run has other settings; or there is one and `resume` is False.
            FileError: there is a file, and neither it nor the previous one can be used.
        """
        self.ranks.first(lambda: self._open_file(resume))

    def _open_file(self, resume):
        found = [path for path in (self.path, self.previous) if os.path.lexists(path)]
        if found and not resume:
            raise InputError(
                f"{_name(found[0])} holds a run already: give resume=True to resume it, or another name, or remove "
                f"it and {_name(self.previous.name)}"
            )
        failures = []
        for path in found:
            try:
                self.saved = self._open(path)
                break
            except FileError as error:
                failures.append(error)
        if self.saved is None and failures:
            raise FileError("; ".join(map(str, failures)))
        if failures:
            console.warn(f"{failures[0]}: resuming from {_name(path)}, the one before")
        elif found and found[0] == self.previous:
            console.warn(f"{_name(self.path)} is missing: resuming from {_name(self.previous)}, the one before")
        self.newest_is_intact = self.saved is not None and path == self.path
        if self.saved is not None:
            self._compare()
            before = self.saved.description.get("ranks", 1)
            if before != self.ranks.size:
                console.warn(
                    f"the run in {_name(self.path)} was trained by {quoted(before)} processes and is continued by "
                    f"{self.ranks.size}: it is the same run, and its numbers differ from here on by rounding"
                )

    def begin(self):
        """Put the saved run's state into the run's objects, or save the beginning of a new one.

        Returns:
            whether there was a saved run.

        Raises:
            FileError: the file cannot be written; or its state does not fit the run.
        """
        is_resumed = self.ranks.first(self._begin)
        if not is_resumed:
            self.save()
        elif self.ranks.size > 1:
            self._send()
        if is_resumed:
            self.saved, self.position = None, self.run.position()
        return is_resumed

    def _begin(self):
        remove_leftovers(self.new)
        if self.saved is not None:
            with self.saved as file:
                self._try_to_restore(file)
        return self.saved is not None

    def _try_to_restore(self, file):
        try:
            self._restore(file)
        except FileError:
            raise
        except Exception as error:  # whatever error values of another kind cause
            raise FileError(
                f"{_name(file.path)} cannot be used: its state does not fit the run "
                f"({type(error).__name__}: {quoted(error, 300)})"
            ) from error

    def _send(self):
        """Send rank 0's file to the other ranks, which take their state from it."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "run")
            with open(path, "wb") as copy:
                for piece in self.ranks.send_file(self.saved.path if self.ranks.is_first else None):
                    copy.write(piece)
            if not self.ranks.is_first:
                with self._open(path) as file:
                    self._try_to_restore(file)

    def close(self):
        """Close the file that was opened, if it is still open."""
        if self.saved is not None:
            self.saved.close()

    def save(self):
        """Write the run's state; the file before is kept until the new one is verified, and after that as previous.

        Raises:
            FileError: a file cannot be written, or reads back wrong. The last good one is still there.
        """
        self.ranks.first(self._save)
        self.newest_is_intact, self.position = True, self.run.position()

    def _save(self):
        run, arrays = self.run, {}
        current, parameters = operations.current, run.model.parameters()
        for name, parameter in parameters.items():
            arrays[f"model/{name}"] = current.to_numpy(parameter.value)
        memories = {name: run.optimizer.memories[p] for name, p in parameters.items() if p in run.optimizer.memories}
        for name, memory in memories.items():
            arrays |= {f"optimizer/{name}/{key}": current.to_numpy(memory[key]) for key in run.optimizer.memory}
        state_arrays, states = states_of(run.model)
        arrays |= {f"state/{name}": array for name, array in state_arrays.items()}
        for name, values in run.history.items():
            arrays[f"history/{name}"] = np.array(values, dtype=np.float64)
        callback_states = []
        for index, callback in enumerate(run.callbacks):
            memory = _callback_state(callback)
            arrays |= {f"callback/{index}/{key}": v for key, v in memory.items() if isinstance(v, np.ndarray)}
            callback_states.append({key: value for key, value in memory.items() if not isinstance(value, np.ndarray)})
        description = {
            "settings": self.settings,
            "optimizer_settings": self.optimizer_settings,
            "ranks": self.ranks.size,
            "position": run.position(),
            "history": list(run.history),
            "optimizer": {
                "now": optimizer_settings(run.optimizer),
                "steps": run.optimizer.steps,
                "t": {name: memory["t"] for name, memory in memories.items()},
            },
            "states": states,
            "callbacks": callback_states,
            "callback_arrays": {
                name: [array.shape, array.dtype.str] for name, array in arrays.items() if name.startswith("callback/")
            },
        }
        write_arrays(self.new, "checkpoint", description, arrays)
        with ArrayFile(self.new, "checkpoint") as file:
            file.verify()
        if self.newest_is_intact:  # a broken one must not replace an intact one
            atomic_move(self.path, self.previous)
        atomic_move(self.new, self.path)

    def _open(self, path):
        """A checkpoint file, open, if all of it can be read."""
        file = ArrayFile(path, "checkpoint")
        try:
            for name, kind in _FORM.items():
                if not isinstance(file.description.get(name), kind):
                    value = quoted(file.description.get(name), 60)
                    raise FileError(f"{_name(path)} cannot be used: its {name} is {value}")
            file.verify()
        except BaseException:
            file.close()
            raise
        return file

    def _compare(self):
        """Refuse a saved run with other settings."""
        description = self.saved.description
        different = list(differences(description["settings"], self.settings))
        # A run resumed in the same session has the optimizer as the callbacks left it.
        if self.optimizer_settings not in (description["optimizer_settings"], description["optimizer"].get("now")):
            different += differences(description["optimizer_settings"], self.optimizer_settings, "optimizer.")
        if different:
            self.close()
            raise InputError(
                f"the run in {_name(self.path)} cannot be resumed with other settings: {'; '.join(different[:8])}. "
                "Give it the old ones, or begin a new run under another name"
            )

    def _restore(self, file):
        run, saved = self.run, file.description
        position, optimizer = saved["position"], saved["optimizer"]
        history = {f"history/{name}": name for name in saved["history"]}
        parameters = run.model.parameters()
        expected = {f"model/{name}": (p.value.shape, p.value.dtype) for name, p in parameters.items()}
        memory = {f"optimizer/{name}/{key}": (name, key) for name in optimizer["t"] for key in run.optimizer.memory}
        values = {name: parameter.value for name, parameter in parameters.items()}
        expected |= {path: (values[name].shape, values[name].dtype) for path, (name, _) in memory.items()}
        late = {name.removeprefix("state/"): name for name in file.names() if name.startswith("state/")}
        make_late_states(run.model, {name: file.header(late[name]) for name in late}, saved["states"])
        state_arrays, _ = states_of(run.model)
        expected |= {f"state/{name}": (array.shape, array.dtype) for name, array in state_arrays.items()}
        expected |= {key: ((position["epoch"],), np.float64) for key in history}
        expected |= {
            name: (tuple(shape), plain_dtype(dtype)) for name, (shape, dtype) in saved["callback_arrays"].items()
        }
        file.check(expected)
        if len(run.callbacks) != len(saved["callbacks"]):
            raise ValueError("it has another number of callbacks")
        run.seek(position)
        self.optimizer_settings = saved["optimizer_settings"]
        _set_optimizer(run.optimizer, optimizer)
        if run.optimizer.steps < run.batch:
            raise ValueError(f"there cannot be {run.batch} batches after {run.optimizer.steps} steps")
        for name, parameter in parameters.items():
            parameter.value[...] = operations.current.array(file.read(f"model/{name}"))
        for parameter in parameters.values():
            run.optimizer.memories.pop(parameter, None)
        for name, t in optimizer["t"].items():
            if type(t) is not int or not 0 < t <= run.optimizer.steps:
                raise ValueError(f"the optimizer's t of {name} is {t!r:.60}")
            run.optimizer.memories[parameters[name]] = {"t": t}
        for path, (name, key) in memory.items():
            array = np.empty_like(parameters[name].value)  # the same memory layout
            array[...] = operations.current.array(file.read(path))
            run.optimizer.memories[parameters[name]][key] = array
        restore_states(run.model, {name: file.read(f"state/{name}") for name in state_arrays}, saved["states"])
        for key, name in history.items():
            run.history[name] = file.read(key).tolist()
        for index, (callback, memory) in enumerate(zip(run.callbacks, saved["callbacks"], strict=True)):
            prefix = f"callback/{index}/"
            arrays = {name: file.read(name) for name in saved["callback_arrays"] if name.startswith(prefix)}
            callback.load_state_dict(memory | {name.removeprefix(prefix): array for name, array in arrays.items()})


def _name(path):
    return quoted(path, 300)


def _callback_state(callback):
    """A callback's state, refused if a file cannot keep it."""
    memory, name = callback.state_dict(), type(callback).__name__
    if not isinstance(memory, dict) or not all(isinstance(key, str) for key in memory):
        raise InputError(f"{name}.state_dict() must return a dict with texts as keys, got {memory!r:.120}")
    for key, value in memory.items():
        if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
            raise InputError(
                f"{name}.state_dict() returns {key!r} as an array of {value.dtype}, and a checkpoint keeps arrays of "
                f"numbers and plain values (JSON): return {key}.tolist(), or numbers"
            )
    return memory


def fingerprint(array):
    """What distinguishes one data set from another: shape, dtype and a checksum of the content."""
    checksum = 0
    for start in range(0, len(array), 4096):
        checksum = zlib.crc32(np.ascontiguousarray(operations.current.to_numpy(array[start : start + 4096])), checksum)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": checksum}


def settings_of(thing):
    """The class of an object and its attributes as plain values, for a comparison."""
    return {"class": type(thing).__name__, **{name: _as_setting(value) for name, value in vars(thing).items()}}


def _as_setting(value):
    """Plain values as they are, an array by its checksum, anything else by its name."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [_as_setting(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_setting(item) for key, item in value.items()}
    if getattr(value, "shape", None) is not None:
        return fingerprint(operations.current.to_numpy(value).reshape(-1))
    return getattr(value, "__qualname__", type(value).__name__)


def optimizer_settings(optimizer):
    """All of an optimizer but its memory: its class, its numbers and its learning rate."""
    settings = settings_of(optimizer) | {"learning_rate": _described(optimizer.schedule)}
    for name in ("steps", "memory", "memories", "schedule"):
        settings.pop(name, None)
    return settings


def _described(schedule):
    """A schedule as plain values; of a function of the user's own the name alone."""
    if type(schedule) is Constant:
        return schedule.learning_rate
    if type(schedule) in SCHEDULES.values():
        fields = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}
        return {"class": type(schedule).__name__} | {
            name: _described(value) if callable(value) else value for name, value in fields.items()
        }
    return {"function": getattr(schedule, "__qualname__", type(schedule).__name__)}


def _made(described):
    """The schedule that `_described` described."""
    if isinstance(described, dict):
        if "function" in described:
            raise ValueError(f"the learning rate was set during the run to {described['function']}")
        fields = {name: _made(value) if name == "schedule" else value for name, value in described.items()}
        return SCHEDULES[fields.pop("class")](**fields)
    return Constant(float(described))


def _set_optimizer(optimizer, saved):
    """Give an optimizer the settings and the step that it had when it was saved, and no state yet."""
    steps, settings = saved["steps"], dict(saved["now"])
    own = optimizer_settings(optimizer)
    if type(steps) is not int or not 0 <= steps < 2**53:
        raise ValueError(f"the optimizer's steps are {steps!r:.60}")
    if settings.keys() != own.keys() or settings["class"] != own["class"]:
        raise ValueError("the optimizer's settings are not its own")
    for name, value in settings.items():  # a callback may set a number where None was, as for clip_norm
        if name != "learning_rate" and _kind(value) != _kind(own[name]) and None not in (value, own[name]):
            raise ValueError(f"the optimizer's {name} is {value!r:.60}")
    learning_rate = settings.pop("learning_rate")
    if learning_rate != as_json(own["learning_rate"]):
        optimizer.schedule = _made(learning_rate)
    _try_constructor(optimizer, settings)
    for name, value in settings.items():
        if name != "class" and (value is None or isinstance(value, PLAIN)):
            setattr(optimizer, name, value)
    optimizer.steps = steps


def _kind(value):
    return float if type(value) is int else type(value)


def _try_constructor(optimizer, settings):
    """Let an optimizer's own constructor judge settings, where its arguments are its attributes."""
    names = inspect.signature(type(optimizer)).parameters.keys()
    settings = settings | {"learning_rate": optimizer.schedule}
    if names <= settings.keys():
        type(optimizer)(**{name: settings[name] for name in names})


def differences(saved, now, where="", form="{name} was {saved} and is {now}"):
    """What differs between two trees of plain values, a text each."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in sorted(saved.keys() | now.keys()):
            yield from differences(saved.get(name), now.get(name), f"{where}{name}.", form)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for index, pair in enumerate(zip(saved, now, strict=True)):
            yield from differences(*pair, f"{where[:-1]}[{index}].", form)
    elif saved != now and not (_is_nan(saved) and _is_nan(now)):
        yield form.format(name=where[:-1], saved=f"{saved!r:.120}", now=f"{now!r:.120}")


def _is_nan(value):
    return isinstance(value, float) and math.isnan(value)


def as_json(value):
    """A tree of plain values as it comes back from a file: tuples as lists, NumPy's numbers as Python's."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))
