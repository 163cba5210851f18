"""The command `exercises`: write the course, and check what a learner has written.

A learner's file is run in a process of its own, because it may end in any way: with
an error, in a loop without end, or in a crash. The table is complete all the same.
"""

import difflib
import functools
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap

from minicnn import console
from minicnn.core.checks import check_integer, quoted
from minicnn.core.errors import FileError, InputError
from minicnn.exercises import TASKS
from minicnn.exercises.task import FILES
from minicnn.storage.files import atomic_write, destination

#: Seconds that one exercise may take.
LIMIT = 120


def add_command(commands):
    """The command `exercises` of `python -m minicnn`."""
    command = commands.add_parser(
        "exercises", help="write a course: layers to fill in, with checks that name the mistake"
    )
    command.add_argument("folder", help="where the course is, or will be written")
    command.add_argument("--check", nargs="*", metavar="NAME", help="check the exercises of these names, or all")
    command.add_argument("--json", action="store_true", help="print the results of --check as JSON, for grading")
    command.add_argument(
        "--time-limit", type=int, metavar="SECONDS", help=f"for each exercise of --check (default: {LIMIT})"
    )
    command.set_defaults(run=run)


def run(arguments):
    """Write the course, or check it; the exit code of a check is 0 only if every exercise is right."""
    folder = pathlib.Path(arguments.folder)
    if arguments.check is None:
        if arguments.json or arguments.time_limit is not None:
            raise InputError("--json and --time-limit belong to --check")
        write(folder)
        return 0
    limit = LIMIT if arguments.time_limit is None else arguments.time_limit
    limit = check_integer(limit, "--time-limit", "exercises")
    tasks = find_tasks(arguments.check)
    if not folder.is_dir():
        raise FileError(f"there is no folder {quoted(folder, 300)}: write the course without --check first")
    show = None if arguments.json else functools.partial(_show, open_too=bool(arguments.check))
    results = check_folder(folder, tasks, limit, show)
    done = sum(result["state"] == "done" for result in results)
    if arguments.json:
        console.show(json.dumps(results, indent=1))
    else:
        console.show(f"{done} of {len(results)} done")
    return int(done < len(results))


def write(folder):
    """Write the files of the course that are not in the folder yet. No file that is there is changed.

    Raises:
        FileError: the folder or a file cannot be written.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {quoted(folder, 300)}: {error.strerror}") from error
    files = sorted((file for file in FILES.iterdir() if file.is_file()), key=lambda file: file.name)
    missing = [file for file in files if not (folder / file.name).exists()]
    for file in missing:
        destination(folder / file.name)
    for file in missing:
        with atomic_write(folder / file.name) as target:
            target.write(file.read_bytes())
    kept = len(files) - len(missing)
    place = _text(folder)
    if kept:
        console.show(f"{kept} files were in {place} already and stay as they are")
    if missing:
        console.show(f"{len(missing)} files written to {place}: begin with README.md and ex01_convolution.py")
    console.show(f"check them with: python -m minicnn exercises {place} --check")


def find_tasks(names):
    """The tasks of some names; all for none.

    Args:
        names: of tasks ("relu"), of files ("ex07_activations", also with ".py"), or their first letters ("ex07").

    Raises:
        InputError: a name that none has.

    >>> [task.name for task in find_tasks(["ex07", "dense"])]
    ['relu', 'tanh', 'dense']
    """
    found = []
    for name in names:
        stem = pathlib.PurePath(name).name.removesuffix(".py")
        exact = [task for task in TASKS.values() if task.name == stem]
        begins = [task for task in TASKS.values() if stem and task.file.startswith(stem)]
        if not exact and not begins:
            close = difflib.get_close_matches(stem, TASKS, n=1)
            fix = f": did you mean {close[0]}?" if close else f": there are {', '.join(TASKS)}"
            raise InputError(f"there is no exercise {quoted(name)}{fix}")
        found += exact or begins
    return list(dict.fromkeys(found or TASKS.values()))


def check_folder(folder, tasks, limit=LIMIT, show=None):
    """Check the functions of a learner.

    Args:
        folder: of the learner's files.
        tasks: the tasks to check.
        limit: the seconds for each.
        show: a function that is called with each result as soon as it is known; without it, what the learner's code
            prints is not shown.

    Returns:
        a list of dicts with "exercise", "file", "state" and "message". The states are "done", "wrong", "open" (the
        stub is not filled in), "error" (the file cannot be run), "stopped" (by the time limit).
    """
    results = []
    for file in dict.fromkeys(task.file for task in tasks):
        names = [task.name for task in tasks if task.file == file]
        for result in _check_file(pathlib.Path(folder) / f"{file}.py", names, limit, quiet=show is None):
            results.append({"file": f"{file}.py"} | result)
            if show is not None:
                show(results[-1])
    return results


def _check_file(path, names, limit, quiet):
    """The results of one file, from a process of its own."""
    if not path.exists():
        message = f"there is no file {path.name}: write it again with python -m minicnn exercises {_text(path.parent)}"
        return [_result(name, "error", message) for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        output, trace = pathlib.Path(temporary) / "results", pathlib.Path(temporary) / "trace"
        code = "from minicnn.exercises.child import main; main()"
        arguments = [str(path.absolute()), str(output), str(trace), str(limit), *names]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
        )
        stopped = ""
        try:  # the child ends itself at its limit, and writes down where it was; this is for one that cannot
            process.wait(timeout=(len(names) + 1) * limit + 30)
        except subprocess.TimeoutExpired:
            stopped = "somewhere"
        finally:
            process.kill()
            process.wait()
        lines = output.read_text(encoding="utf-8").split("\n")[:-1] if output.exists() else []  # the complete ones
        results = [json.loads(line) for line in lines]
        stopped = (trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else "") or stopped
    for name in names[len(results) :]:
        if stopped:
            results.append(_result(name, "stopped", _where(stopped, path, limit)))
        else:
            reason = f"the process ended with the code {process.returncode} before the check was done"
            results.append(_result(name, "error", f"{reason}: too much memory, or a call that ends Python?"))
    return results


def _text(folder):
    """A folder as it is typed in a terminal, in printable characters."""
    return shlex.quote(quoted(folder, 300)[1:-1])


def _result(name, state, message):
    return {"exercise": name, "state": state, "message": message}


def _where(trace, path, limit):
    """The sentence about a check that was stopped, with the line of the learner's file that it was in."""
    message = f"stopped after {limit} seconds: is there a loop that never ends?"
    for line in trace.splitlines():
        if path.name in line and ", line " in line:
            return f"{message} It was at {path.name}, line {line.rpartition(', line ')[2].replace(' in ', ', in ')}"
    return message


def _show(result, open_too=True):
    """A line of the table, and below it the message, except that of an open exercise in a long table."""
    console.show(f"{result['state']:8} {result['exercise']:24} {result['file']}")
    if result["state"] == "open" and not open_too:
        return
    width = max(40, min(120, shutil.get_terminal_size().columns) - 9)
    for line in result["message"].removeprefix(f"{result['exercise']}: ").splitlines():
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False):
            console.show(f"{'':9}{part}")
