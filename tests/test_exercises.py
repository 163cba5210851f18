"""The exercises: solutions pass, stubs fail with a sentence, and every planted mistake is named."""

import ast
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from minicnn import __main__, console
from minicnn.core import layers, operations
from minicnn.core.errors import CheckError, FileError, InputError
from minicnn.exercises import TASKS, check, command, solutions
from minicnn.exercises.find import FindTask
from minicnn.exercises.task import FILES, GENERAL, NotWrittenError, describe

EXERCISES = [task for task in TASKS.values() if task.solution is not None and not isinstance(task, FindTask)]
FIND = [task for task in TASKS.values() if isinstance(task, FindTask)]
LAYERS = ["convolution_layer", "max_pool", "average_pool", "relu", "tanh", "dense", "dropout", "batch_norm", "residual"]


def named(tasks):
    return pytest.mark.parametrize("task", tasks, ids=lambda task: task.name)


def source(task):
    return (FILES / f"{task.file}.py").read_text(encoding="utf-8")


def run_file(text, name="learner"):
    """The names that a learner's file defines."""
    module = types.ModuleType(name)
    exec(compile(text, f"{name}.py", "exec"), vars(module))
    return module


def answer(name, *functions):
    """What the check says about a wrong function."""
    with pytest.raises(CheckError) as caught:
        check(name, *functions)
    return str(caught.value)


def in_terminal(monkeypatch, capsys, *arguments):
    """The exit code and the output of `python -m minicnn exercises ...`."""
    monkeypatch.setattr(sys, "argv", ["minicnn", "exercises", *map(str, arguments)])
    code = console.run_command(__main__.main)
    shown = capsys.readouterr()
    return code, shown.out + shown.err


# The solutions, the stubs, the known mistakes


@named([*EXERCISES, *FIND])
def test_the_librarys_own_code_passes(task):
    assert check(task.name, task.solution) == ""
    assert all(np.isfinite(value).all() for _, value in task.right)


def test_lenet5_of_the_librarys_layers_is_trained_and_one_that_learns_nothing_refused():
    assert "synthetic letters" in check("trained", solutions.train, solutions.lenet5)

    def no_training(network, parameters, *settings):
        return parameters, []

    assert "must be 50 %" in answer("trained", no_training, solutions.lenet5)


def test_the_dropout_of_the_course_is_the_librarys():
    x, seed = np.random.default_rng(0).normal(size=(4, 6)), 7
    random = operations.current.uniform(x.shape, (seed, 0))
    generator = types.SimpleNamespace(random=lambda shape: random)
    y, backward = solutions.dropout(x, 0.3, generator, True)
    expected, expected_backward = layers.Dropout(0.3, seed=seed).forward(x, training=True)
    np.testing.assert_allclose(y, expected)
    np.testing.assert_allclose(backward(x), expected_backward(x))


@named([*EXERCISES, TASKS["trained"]])
def test_a_stub_fails_with_a_sentence(task, tmp_path, monkeypatch):
    command.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    try:
        module = run_file(source(task), task.file)
        with pytest.raises(NotWrittenError, match=r"not written yet.*\.py|\.py.*not written yet"):
            check(task.name, *(getattr(module, name) for name in task.functions))
    finally:
        for name in set(sys.modules) - known:
            del sys.modules[name]


@named(EXERCISES)
def test_every_planted_mistake_is_named(task):
    assert len(task.mistakes) >= 3
    for mistake in task.mistakes:
        message = answer(task.name, mistake.function)
        assert mistake.hint in message and f"({mistake.line})" in message
        assert message.endswith(task.formula(mistake.line))


def stale(function):
    """A layer whose backward pass is that of its last call."""
    last = {}

    def layer(*arguments):
        y, last["backward"] = function(*arguments)
        return y, lambda dy: last["backward"](dy)

    return layer


def changes_x(function):
    def layer(x, *arguments):
        result = function(x.copy(), *arguments)
        x *= 2
        return result

    return layer


def changes_dy(function):
    def layer(*arguments):
        y, backward = function(*arguments)

        def changed(dy):
            result = backward(dy.copy())
            dy *= 2
            return result

        return y, changed

    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_what_every_layer_may_do_wrong_is_named(name):
    solution = TASKS[name].solution
    assert GENERAL["x afterwards"] in answer(name, changes_x(solution))
    assert GENERAL["dy afterwards"] in answer(name, changes_dy(solution))
    if name != "average_pool":  # whose backward pass needs nothing of the forward pass but the shape
        assert GENERAL["after another forward pass"] in answer(name, stale(solution))


# A learner's own code, written from the texts: the mistakes are found in it, too

LEARNER = """
import numpy as np

def im2col(x, kernel_size, stride=1, padding=0):
    (N, C, H, W), (KH, KW) = x.shape, kernel_size
    p = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    OH, OW = (H + 2 * padding - KH) // stride + 1, (W + 2 * padding - KW) // stride + 1
    cols = np.zeros((C, KH, KW, OH, OW, N))
    for oh in range(OH):
        for ow in range(OW):
            h, w = oh * stride, ow * stride
            cols[:, :, :, oh, ow] = p[:, :, h : h + KH, w : w + KW].transpose(1, 2, 3, 0)
    return cols.reshape(C * KH * KW, -1)

def col2im(columns, input_shape, kernel_size, stride=1, padding=0):
    (N, C, H, W), (KH, KW) = input_shape, kernel_size
    p = np.zeros((N, C, H + 2 * padding, W + 2 * padding))
    OH, OW = (H + 2 * padding - KH) // stride + 1, (W + 2 * padding - KW) // stride + 1
    cols = columns.reshape(C, KH, KW, OH, OW, N)
    for kh in range(KH):
        for kw in range(KW):
            taps = cols[:, kh, kw].transpose(3, 0, 1, 2)
            p[:, :, kh : kh + OH * stride : stride, kw : kw + OW * stride : stride] += taps
    return p[:, :, padding : padding + H, padding : padding + W]

def convolution_layer(x, weight, bias, stride=1, padding=0):
    F, C, KH, KW = weight.shape
    N, _, H, W = x.shape
    OH, OW = (H + 2 * padding - KH) // stride + 1, (W + 2 * padding - KW) // stride + 1
    cols, matrix = im2col(x, (KH, KW), stride, padding), weight.reshape(F, -1)
    y = (matrix @ cols + bias[:, None]).reshape(F, OH, OW, N).transpose(3, 0, 1, 2)
    def backward(dy):
        rows = dy.transpose(1, 2, 3, 0).reshape(F, -1)
        dx = col2im(matrix.T @ rows, x.shape, (KH, KW), stride, padding)
        return dx, (rows @ cols.T).reshape(weight.shape), dy.sum(axis=(0, 2, 3))
    return y, backward

def relu(x):
    return x * (x > 0), lambda dy: dy * (x > 0)

def softmax_cross_entropy(logits, labels):
    s = logits - logits.max(1, keepdims=True)
    log_p = s - np.log(np.exp(s).sum(1, keepdims=True))
    d = np.exp(log_p)
    d[range(len(labels)), labels] -= 1
    return -log_p[range(len(labels)), labels].mean(), d / len(labels)

def dense(x, weight, bias):
    y = np.einsum("nd,ud->nu", x, weight) + bias
    return y, lambda dy: (dy @ weight, np.einsum("nu,nd->ud", dy, x), np.sum(dy, axis=0))

def adam_step(w, g, m, v, t, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g**2 - v)
    return w - learning_rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon), m, v

def dropout(x, rate, rng, training):
    factor = (rng.uniform(size=x.shape) >= rate) / (1 - rate) if training else np.ones_like(x)
    return x * factor, lambda dy: dy * factor

def batch_norm(x, scale, shift, running, training, momentum=0.9, epsilon=1e-5):
    ax, sh, n = (0, 2, 3), (1, -1, 1, 1), x.size / x.shape[1]
    mu, var = (x.mean(ax), x.var(ax)) if training else (running["mean"], running["variance"])
    if training:
        running["mean"] = momentum * running["mean"] + (1 - momentum) * mu
        running["variance"] = momentum * running["variance"] + (1 - momentum) * var * n / (n - 1)
    root = np.sqrt(var + epsilon).reshape(sh)
    xn = (x - mu.reshape(sh)) / root
    def backward(dy):
        d = dy * scale.reshape(sh)
        dscale, dshift = (dy * xn).sum(ax), dy.sum(ax)
        if not training:
            return d / root, dscale, dshift
        return (d - d.mean(ax, keepdims=True) - xn * (d * xn).mean(ax, keepdims=True)) / root, dscale, dshift
    return xn * scale.reshape(sh) + shift.reshape(sh), backward

def residual(x, branch):
    z, backward = branch(x)
    z = z + x
    return z * (z > 0), lambda dy: backward(dy * (z > 0)) + dy * (z > 0)
"""

#: (the exercise, what the learner should have written, what was written, a word of the hint)
EDITS = [
    ("im2col", "transpose(1, 2, 3, 0)", "transpose(1, 3, 2, 0).reshape(C, KH, KW, N)", "transposed"),
    ("col2im", "+= taps", "= taps", "overwrite instead of an add"),
    ("convolution_layer", "dy.sum(axis=(0, 2, 3))", "dy.sum(axis=(2, 3))", "sum over the batch"),
    ("convolution_layer", "dy.sum(axis=(0, 2, 3))", "dy.mean(axis=(0, 2, 3))", "factor"),
    ("convolution_layer", "rows = dy.transpose(1, 2, 3, 0)", "rows = dy", "axes of dy are mixed"),
    ("convolution_layer", "matrix.T @ rows", "weight[:, :, ::-1, ::-1].reshape(F, -1).T @ rows", "flipped"),
    ("convolution_layer", "+= taps", "= taps", "overwrite instead of an add"),
    ("relu", "dy * (x > 0)", "dy * (dy > 0)", "mask is taken from dy"),
    ("softmax_cross_entropy", "d / len(labels)", "d", "factor"),
    ("softmax_cross_entropy", "s = logits - logits.max(1, keepdims=True)", "s = logits", "overflows"),
    ("dense", "nu,nd->ud", "nu,nd->du", "transposed"),
    ("dense", "np.sum(dy, axis=0)", "dy", "sum over the batch"),
    ("adam_step", "beta2**t", "beta2 * t", "power"),
    ("dropout", "/ (1 - rate) if training else np.ones_like(x)", "/ (1 - rate)", "mode is forgotten"),
    ("dropout", "rng.uniform(size=x.shape)", "np.random.random(x.shape)", "call to call"),
    ("dropout", "dy * factor", "dy", "mask is missing"),
    ("batch_norm", "if training else (running", "if True else (running", "mode is forgotten"),
    ("batch_norm", " - xn * (d * xn).mean(ax, keepdims=True)", "", "term of the variance"),
    ("batch_norm", "(dy * xn).sum(ax)", "(dy * x).sum(ax)", "wrong tensor"),
    ("residual", "+ dy * (z > 0)", "", "shortcut"),
    ("residual", "backward(dy * (z > 0)) + dy * (z > 0)", "backward(dy * (x > 0)) + dy * (x > 0)", "wrong tensor"),
]


@pytest.mark.parametrize("name", sorted({name for name, *_ in EDITS}))
def test_a_learners_own_code_passes(name):
    assert check(name, getattr(run_file(LEARNER), name)) == ""


@pytest.mark.parametrize(("name", "right", "wrong", "word"), EDITS)
def test_a_mistake_in_a_learners_own_code_is_named(name, right, wrong, word):
    before, definition, code = LEARNER.partition(f"def {name}(")
    if right in code:
        code = code.replace(right, wrong, 1)
    else:  # in a function that this one calls
        assert right in before
        before = before.replace(right, wrong)
    assert word in answer(name, getattr(run_file(before + definition + code), name))


def test_a_stale_cache_in_a_learners_object_is_named():
    class Relu:
        def __call__(self, x):
            self.x = x
            return np.maximum(x, 0), self.backward

        def backward(self, dy):
            return dy * (self.x > 0)

    assert "stale cache" in answer("relu", Relu())


# What no known mistake explains


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: None, ["two things", "return"]),
        (lambda x: np.maximum(x, 0), ["two things", "ndarray"]),
        (lambda x: (np.maximum(x, 0), lambda dy: None), ["dx is None", "return"]),
        (lambda x: (np.maximum(x, 0).T, None), ["backward"]),
        (lambda x: (np.maximum(x, 0).T, lambda dy: dy), ["shape (5, 4)", "must have (4, 5)"]),
        (lambda x: (3 * np.maximum(x, 0), lambda dy: dy), ["times 3"]),
        (lambda x: (-np.maximum(x, 0), lambda dy: dy), ["sign"]),
        (lambda x: (0 * x, lambda dy: dy), ["0 everywhere"]),
        (lambda x: (np.maximum(x, 0) / 0, lambda dy: dy), ["NaN"]),
        (lambda x: (np.maximum(x, 0)[::-1], lambda dy: dy), ["another order"]),
        (lambda x: (np.maximum(x, 0.5), lambda dy: dy), ["at [", "must be"]),
        (lambda x: ("text", lambda dy: dy), ["not an array", "text"]),
        (lambda x: (np.maximum(x, 0), lambda dy: (dy, dy)), ["dx"]),
        (lambda x: (_ for _ in ()).throw(ZeroDivisionError("by zero")), ["ZeroDivisionError", "by zero"]),
        (lambda x: sys.exit(3), ["SystemExit"]),
    ],
)
def test_other_mistakes_are_described(function, words):
    message = answer("relu", function)
    assert message.startswith("relu: ") and all(word in message for word in words), message


def test_an_error_in_the_learners_code_is_shown_with_its_line(tmp_path):
    path = tmp_path / "ex09_dense.py"
    path.write_text("def dense(x, weight, bias):\n    y = x + weight[:, :1]\n    return y, None\n")
    module = types.ModuleType("ex09_dense")
    exec(compile(path.read_text(), path, "exec"), vars(module))
    function = module.dense
    message = answer("dense", lambda *arguments: function(*arguments))
    assert "ValueError" in message
    message = answer("dense", function)
    assert "Line 2 of ex09_dense.py: y = x + weight[:, :1]" in message


def test_a_difference_of_one_number_is_described():
    assert describe(np.array(3.0), np.array(4.0)) == "it is the right one times 0.75: look for a factor"
    assert describe(np.array(3.0), np.array(0.0)) == "it is 3, and must be 0"


def test_the_check_leaves_the_backend_as_it_is():
    before = operations.current
    check("relu", solutions.relu)
    answer("relu", lambda x: None)
    assert operations.current is before


def test_a_wrong_call_of_check_is_refused():
    with pytest.raises(InputError, match="relu"):
        check("rellu", solutions.relu)
    with pytest.raises(InputError, match="without brackets"):
        check("relu", solutions.relu(np.ones((1, 2))))
    with pytest.raises(InputError, match="train, lenet5"):
        check("trained", solutions.train)


# Find the mistake

MENDED = {
    "find01_dense": [("dweight = np.outer", "dweight += np.outer")],
    "find02_convolution": [("weight[:, :, KH - 1 - kh, KW - 1 - kw]", "weight[:, :, kh, kw]")],
    "find03_average_pool": [("w : w + KW] = dy", "w : w + KW] += dy")],
    "find04_leaky_relu": [("np.where(dy > 0", "np.where(x > 0")],
    "find05_max_pool": [("padded = np.zeros((N", "padded = -np.inf + np.zeros((N")],
    "find06_cross_entropy": [("logits.mean()", "logits.max(axis=1, keepdims=True)")],
    "find07_dropout": [("return drop(dy)", "return dy * (y != 0) / (1 - rate) if training else dy"),
                       ("    return drop(x), backward", "    y = drop(x)\n    return y, backward")],
    "find08_batch_norm": [('    running["', '    if training: running["')],
    "find09_adam": [("beta2 * t", "beta2**t")],
    "find10_sigmoid": [("return self.y, self.backward", "y = self.y\n        return y, lambda dy: dy * y * (1 - y)")],
}  # fmt: skip


@named(FIND)
def test_the_mistake_is_still_there_until_it_is_corrected(task):
    text = source(task)
    with pytest.raises(NotWrittenError, match="still there"):
        check(task.name, getattr(run_file(text), task.functions[0]))
    for wrong, right in MENDED[task.name]:
        assert wrong in text
        text = text.replace(wrong, right)
    mended = getattr(run_file(text), task.functions[0])
    assert check(task.name, mended) == ""
    with pytest.raises(CheckError) as caught:
        check(task.name, lambda *arguments, **options: tuple(reversed(mended(*arguments, **options))))
    assert not isinstance(caught.value, NotWrittenError)


def test_there_are_ten_to_find():
    assert len(FIND) == 10 == len(MENDED)


# The files


def test_every_file_can_be_read_alone():
    """Each has its text, its formula, and a test of each function; it calls nothing of the library but check."""
    files = {task.file for task in TASKS.values()}
    assert {path.name for path in FILES.iterdir() if path.name.endswith(".py")} == {f"{file}.py" for file in files}
    for task in TASKS.values():
        tree = ast.parse(source(task))
        assert len(ast.get_docstring(tree).split()) > 4
        imported = [
            node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module.startswith("minicnn")
        ]
        assert [(node.module, [name.name for name in node.names]) for node in imported] == [
            ("minicnn.exercises", ["check"])
        ]
        assert f'check("{task.name}", {", ".join(task.functions)})' in source(task)


def test_the_teachers_page_names_every_file():
    path = pathlib.Path(__file__).parents[1] / "docs" / "exercises.md"
    if not path.exists():
        pytest.skip("the pages are beside the tests in a checkout only")
    text = path.read_text(encoding="utf-8")
    assert [task.file for task in TASKS.values() if f"`{task.file}`" not in text] == []


def test_a_course_is_written_and_never_overwritten(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "course"
    code, text = in_terminal(monkeypatch, capsys, folder)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert code == 0 and f"{len(written)} files written" in text
    assert written == {path.name: path.read_bytes() for path in FILES.iterdir() if path.is_file()}
    (folder / "ex07_activations.py").write_text("mine")
    (folder / "ex02_output_size.py").unlink()
    code, text = in_terminal(monkeypatch, capsys, folder)
    assert code == 0 and f"{len(written) - 1} files were" in text and "1 files written" in text
    assert (folder / "ex07_activations.py").read_text() == "mine"
    assert (folder / "ex02_output_size.py").read_bytes() == written["ex02_output_size.py"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileError, match="cannot make"):
        command.write(tmp_path / "missing" / "course")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot make"):
        command.write(tmp_path / "file")


# The check in a terminal


def learner(folder, **files):
    """A folder with some files of a learner."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


RIGHT = "import numpy as np\ndef output_size(size, kernel, stride=1, padding=0):\n    print('mine')\n"
RIGHT += "    return (size + 2 * padding - kernel) // stride + 1\n"
HALF = "import time\nfrom minicnn.exercises.solutions import relu\n"
HALF += "def tanh(x):\n    while True:\n        time.sleep(0.1)\n"
CRASH = "import os\ndef dense(x, weight, bias):\n    os._exit(3)\n"


def test_the_table_shows_every_state(tmp_path, monkeypatch, capfd):
    """In processes of their own: a loop without end and a crash lose nothing of the others."""
    folder = learner(
        tmp_path / "mine",
        ex02_output_size=RIGHT,
        ex07_activations=HALF,
        ex09_dense=CRASH,
        ex13_residual="def residual(x, branch)\n    return x\n",
    )
    names = ["ex02", "ex07", "dense", "residual", "ex11_dropout.py"]
    code, text = in_terminal(monkeypatch, capfd, folder, "--check", *names, "--time-limit", 10)
    rows = {
        line.split()[1]: line.split()[0] for line in text.splitlines() if line[:1] not in ("", " ") and ".py" in line
    }
    assert rows == {
        "output_size": "done",
        "relu": "done",
        "tanh": "stopped",
        "dense": "error",
        "dropout": "error",
        "residual": "error",
    }
    assert code == 1 and "2 of 6 done" in text and "mine\n" in text
    text = " ".join(text.split())
    assert "ex07_activations.py, line 5, in tanh" in text and "code 3" in text and "line 1 of ex13_residual.py" in text


def test_the_results_as_json(tmp_path, monkeypatch, capfd):
    folder = learner(tmp_path / "mine", ex02_output_size=RIGHT, ex09_dense="import nothing_of_this_name\n")
    code, text = in_terminal(monkeypatch, capfd, folder, "--check", "output_size", "dense", "--json")
    one, two = json.loads(text)
    assert code == 1
    assert one == {"file": "ex02_output_size.py", "exercise": "output_size", "state": "done", "message": ""}
    assert two["state"] == "error" and "nothing_of_this_name" in two["message"] and "line 1" in two["message"]
    code, text = in_terminal(monkeypatch, capfd, folder, "--check", "output_size", "--json")
    assert code == 0 and len(json.loads(text)) == 1


def test_a_missing_function_and_a_stub_are_told_apart(tmp_path):
    folder = learner(tmp_path / "mine", ex07_activations=source(TASKS["relu"]).replace("def tanh(", "def tan("))
    relu, tanh = command.check_folder(folder, command.find_tasks(["ex07"]))
    assert (relu["state"], tanh["state"]) == ("open", "wrong")
    assert "no function tanh" in tanh["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--check", "rellu"], "did you mean relu?"),
        (["--check", ""], "there is no exercise"),
        (["--json"], "--check"),
        (["--check", "--time-limit", "0"], "--time-limit"),
        (["--check"], "there is no folder"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys):
    code, text = in_terminal(monkeypatch, capsys, tmp_path / "missing", *arguments)
    assert code == 1 and text.startswith("error: ") and words in text and text.count("\n") == 1
    assert not (tmp_path / "missing").exists()


def test_pytest_runs_the_folder(tmp_path):
    command.write(tmp_path)
    for path in [*tmp_path.glob("find*.py"), *tmp_path.glob("ex1*.py")]:
        path.unlink()
    learner(tmp_path, ex02_output_size=RIGHT + "from minicnn.exercises import check\n"
            "def test_output_size():\n    check('output_size', output_size)\n")  # fmt: skip
    program = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[1])
    assert "10 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "relu is not written yet" in done.stdout and "task.py" not in done.stdout
