"""Results that survive: a folder with one JSON file a task, written whole when the task is done.

A task that is there already is not done again, so a comparison that was stopped goes on where it was. Every file
holds the settings under which it was made. Other settings are refused before any work is done, or the task is
done again where the user says so.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import minicnn as mc
from minicnn.files import write_whole


class Task(NamedTuple):
    """Something to compute.

    Attributes:
        name: of its file.
        settings: a dict of plain values on which the result depends.
        cost: roughly how many seconds it takes.
        compute: a function of `advance`, which it may call with a share of the work done; returns a dict.
    """

    name: str
    settings: dict
    cost: float
    compute: Callable


class Store:
    """The folder.

    Args:
        folder: made if it is missing.
        again: whether results of other settings are replaced instead of refused.
    """

    def __init__(self, folder, again=False):
        self.folder = pathlib.Path(folder)
        self.again = again

    def path(self, task):
        return self.folder / "results" / f"{task.name}.json"

    def done(self, task, say=print):
        """The result of a task, or None if it has to be computed.

        Raises:
            InputError: there is one under other settings, and `again` is not wanted.
        """
        path = self.path(task)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            settings, result = kept["settings"], kept["result"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{path} cannot be read ({error!r}): it is done again")
            return None
        wanted = json.loads(json.dumps(task.settings))
        changed = [
            f"{name} {_short(settings.get(name))} there and {_short(wanted.get(name))} here"
            for name in sorted({*settings, *wanted})
            if settings.get(name) != wanted.get(name)
        ]
        if not changed:
            return result
        if not self.again:
            raise mc.InputError(
                f"{path} was made with other settings: {', '.join(changed)}. Give another folder with --out, or "
                f"--again to do anew what was made with other settings"
            )
        say(f"{task.name} was made with other settings ({', '.join(changed)}): it is done again")
        return None

    def keep(self, task, result):
        """Write a result, whole or not at all."""
        path = self.path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(json.dumps({"settings": task.settings, "result": result}).encode())


def _short(value):
    """Enough of a setting to recognise it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def do_all(tasks, store, progress):
    """Every task's result by its name; what is done already is taken from the store.

    All settings are compared before the first task begins.
    """
    results = {task.name: store.done(task, progress.say) for task in tasks}
    missing = [task for task in tasks if results[task.name] is None]
    progress.begin(len(tasks), tasks, missing)
    for task in missing:
        progress.start(task)
        started = time.perf_counter()
        result = task.compute(progress.advance)
        store.keep(task, result)
        results[task.name] = result
        progress.finish(task, result, time.perf_counter() - started)
    progress.close()
    return results
