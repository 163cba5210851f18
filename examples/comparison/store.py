"""Results that survive: a folder with a JSON file for each task, written atomically when the task is done.

A task whose file is there is not computed again, so a comparison that was stopped can be resumed. Every file holds the
settings of its task. A file with other settings is refused before any work is done, or its task is computed again if
the user wants that.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import minicnn as mc
from minicnn.core.checks import quoted
from minicnn.storage.files import atomic_write


class Task(NamedTuple):
    """Something to compute.

    Attributes:
        name: of its file.
        settings: a dict of plain values on which the result depends.
        cost: about how many seconds it takes.
        compute: a function of `advance`, which it may call with the fraction of work that it has just done; it returns
            a dict.
    """

    name: str
    settings: dict
    cost: float
    compute: Callable


class Store:
    """The folder of the results.

    Args:
        folder: made if it is missing.
        again: whether results with other settings are replaced instead of refused.
    """

    def __init__(self, folder, again=False):
        self.folder = pathlib.Path(folder)
        self.again = again

    def path(self, task):
        return self.folder / "results" / f"{task.name}.json"

    def load(self, task, say=print):
        """The result of a task, or None if it must be computed.

        Raises:
            InputError: there is one with other settings, and `again` is False.
        """
        path = self.path(task)
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            settings, result = saved["settings"], saved["result"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{quoted(path)} cannot be read ({quoted(error)}): it is computed again")
            return None
        wanted = json.loads(json.dumps(task.settings))
        changed = [
            f"{name} {_short(settings.get(name))} instead of {_short(wanted.get(name))}"
            for name in sorted({*settings, *wanted})
            if settings.get(name) != wanted.get(name)
        ]
        if not changed:
            return result
        if not self.again:
            raise mc.InputError(
                f"{quoted(path)} was made with other settings: {', '.join(changed)}. Use another folder with --out, or "
                f"--again to compute again what was made with other settings"
            )
        say(f"{task.name} was made with other settings ({', '.join(changed)}): it is computed again")
        return None

    def save(self, task, result):
        """Write a result atomically."""
        path = self.path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps({"settings": task.settings, "result": result}).encode())


def _short(value):
    """A setting as text, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def run_all(tasks, store, progress):
    """The results of all tasks by name; a result that is in the store is not computed again.

    All settings are compared before the first task begins.
    """
    results = {task.name: store.load(task, progress.say) for task in tasks}
    missing = [task for task in tasks if results[task.name] is None]
    progress.begin(len(tasks), tasks, missing)
    for task in missing:
        progress.start(task)
        started = time.perf_counter()
        result = task.compute(progress.advance)
        store.save(task, result)
        results[task.name] = result
        progress.finish(task, result, time.perf_counter() - started)
    progress.close()
    return results
