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


def run_all(tasks, store, progress, ranks):
    """The results of all tasks by name, on rank 0; a result that is in its store is not computed again.

    All settings are compared before the first task begins. Of what is missing, each of several processes computes some
    tasks, which are dealt out from the longest to the shortest, and then rank 0 collects the results.
    """
    results = {}

    def find_missing():
        results.update((task.name, store.load(task, progress.say)) for task in tasks)
        return [task.name for task in tasks if results[task.name] is None]

    with ranks:
        names = ranks.first(find_missing)
        missing = own = [task for task in tasks if task.name in names]
        if ranks.size > 1:
            own = sorted(missing, key=lambda task: -task.cost)[ranks.rank :: ranks.size]
        progress.begin(len(tasks) - len(missing) + len(own), tasks, own)
        computed, stopped = _compute(own, store, progress)
        gathered = ranks.gather_values([computed, stopped is not None])
        if any(was_stopped for _, was_stopped in gathered):
            raise ranks.shared(stopped or KeyboardInterrupt())
        for rank, (found, _) in enumerate(gathered):
            results |= found
            for task in tasks:
                if ranks.is_first and rank and task.name in found:
                    store.save(task, found[task.name])
    return {task.name: results.get(task.name) for task in tasks}


def _compute(tasks, store, progress):
    """({name: result}, None) of some tasks; or those finished before Ctrl-C, and its exception."""
    computed = {}
    try:
        for task in tasks:
            progress.start(task)
            started = time.perf_counter()
            computed[task.name] = task.compute(progress.advance)
            store.save(task, computed[task.name])
            progress.finish(task, computed[task.name], time.perf_counter() - started)
    except KeyboardInterrupt as error:
        return computed, error
    finally:
        progress.close()
    return computed, None
