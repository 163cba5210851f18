"""The process that runs a learner's file: it imports the file, checks its functions, and writes the results down.

Each result is written as soon as it is known, so that a loop without end in the
second function does not lose the first. A watchdog in C ends the process, wherever
its Python code is, and writes down the line.
"""

import faulthandler
import importlib.util
import json
import os
import pathlib
import sys
import traceback

from minicnn.core.checks import quoted
from minicnn.core.errors import CheckError
from minicnn.exercises import TASKS, check
from minicnn.exercises.task import NotWrittenError


def main():
    """Check the tasks of one file: `sys.argv` has the file, the two files to write, the limit, and the tasks' names."""
    path, output, trace, limit, *names = sys.argv[1:]
    with open(output, "a", encoding="utf-8") as results, open(trace, "w") as lines:
        for name in names:
            faulthandler.dump_traceback_later(int(limit), exit=True, file=lines)
            state, message = judge(pathlib.Path(path), name)
            results.write(json.dumps({"exercise": name, "state": state, "message": message}) + "\n")
            results.flush()
        faulthandler.cancel_dump_traceback_later()
        results.flush()
    os._exit(0)  # whatever the learner's code has registered or started


def judge(path, name):
    """The state of one task of a learner's file, and a sentence.

    Args:
        path: of the file.
        name: of the task.
    """
    try:
        functions = load_functions(path, TASKS[name].functions)
        return "done", check(name, *functions)
    except NotWrittenError as error:
        return "open", str(error)
    except CheckError as error:
        return "wrong", str(error)
    except SyntaxError as error:
        place = f"line {error.lineno} of {pathlib.Path(error.filename or path).name}: {(error.text or '').strip()}"
        return "error", f"the file cannot be read as Python: {error.msg}\n{place}"
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if path.name in frame.filename]
        place = f"\nline {frames[-1].lineno} of {path.name}: {frames[-1].line}" if frames else ""
        return "error", f"the file cannot be run: {type(error).__name__}: {quoted(error, 300)[1:-1]}{place}"


def load_functions(path, names):
    """The functions of a learner's file.

    Raises:
        CheckError: the file does not have one of them.
    """
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the files import each other
    module = sys.modules.get(path.stem)
    if module is None:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
    missing = [name for name in names if not callable(getattr(module, name, None))]
    if missing:
        raise CheckError(f"{path.name} has no function {missing[0]}: keep the name that the exercise gives it")
    return [getattr(module, name) for name in names]
