"""The structure of the code: what may import what, and how much of it a reader reads."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import minicnn as mc

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "minicnn"
sys.path.insert(0, str(ROOT))

#: From the ground up: each may import what stands before it.
LEVELS = [
    "core",
    "console",
    "markup",
    "backends",
    "parallel",
    "storage",
    "datasets",
    "training",
    "inspect",
    "model",
    "networks",
    "exchange",
    "exercises",
    "commands",
    "testing",
    "",
    "__main__",
]

#: The order in core.
CORE = [
    *(
        "types",
        "errors",
        "habits",
        "checks",
        "arguments",
        "window",
        "im2col",
        "operations",
        "messages",
        "parameter",
        "initializers",
    ),
    *("schedules", "layer", "layers", "losses", "metrics", "optimizers", "sequential", "contract", "gradcheck"),
]


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(path):
    """The modules of the package that a file imports, below `minicnn`; those inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minicnn":
            module = node.module.removeprefix("minicnn").lstrip(".")
            for alias in node.names:
                inner = PACKAGE.joinpath(*module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{module}.{alias.name}".lstrip(".") if is_module else module
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("minicnn").lstrip(".") for a in node.names if a.name.startswith("minicnn"))


def level(module, levels, depth):
    part = (module.split(".") + [""] * depth)[depth]
    return levels.index(part)


def upward_imports(files):
    """The imports of files (module, path) that run upwards, as texts."""
    found = []
    for module, path in files:
        for imported in imports(path):
            if level(imported, LEVELS, 0) > level(module, LEVELS, 0):
                found.append(f"minicnn.{module} imports minicnn.{imported}")
            both_in_core = module.startswith("core.") and imported.startswith("core.")
            if both_in_core and level(imported, CORE, 1) > level(module, CORE, 1):
                found.append(f"minicnn.{module} imports minicnn.{imported}")
    return found


def test_imports_run_downwards_only():
    assert upward_imports((module_name(path), path) for path in PACKAGE.rglob("*.py")) == []


def test_an_import_that_runs_upwards_is_named(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text("def f():\n    from minicnn.training.loop import fit\n    from minicnn.core import sequential\n")
    assert upward_imports([("core.losses", path)]) == [
        "minicnn.core.losses imports minicnn.training.loop",
        "minicnn.core.losses imports minicnn.core.sequential",
    ]


def test_only_its_backend_knows_cupy():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                inside = "cupy" in path.relative_to(PACKAGE).parts
                assert inside or name.split(".")[0] != "cupy", path


def test_what_few_programs_need_is_imported_when_it_is_needed():
    rare = ["matplotlib", "http.client", "http.server", "ssl", "urllib.request", "minicnn.inspect.explain.live"]
    code = f"import sys; import minicnn; print([name for name in {rare} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_modules_of_exchange_are_imported_when_they_are_needed():
    """`import minicnn` reads none of them; a function that is used has its own module imported."""
    code = """
import sys
import minicnn as mc
def imported():
    return sorted(name for name in sys.modules if name.startswith("minicnn.exchange.") or name in ("onnx", "h5py"))
print(imported(), mc.exchange.save_weights.__module__, "minicnn.exchange.weights" in imported())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["[]", "minicnn.exchange.weights", "True"], done.stderr


def test_every_function_of_exchange_is_there():
    """They are listed twice: for type checkers, and for the import when they are needed."""
    assert set(mc.exchange.__all__) == set(mc.exchange._MODULES) <= set(dir(mc.exchange))
    for name in mc.exchange.__all__:
        assert getattr(mc.exchange, name).__name__ == name
    with pytest.raises(mc.UnknownNameError, match=r"mc.exchange.load\(path\)"):
        _ = mc.exchange.load_model


def test_a_plain_training_step_is_read_in_320_lines():
    from benchmarks import reading

    found = reading.tour("plain")
    functions, lines, _ = reading.total(found)
    assert lines <= 320, f"{lines} lines in {functions} functions"
    assert {file.split("/")[0] for file, *_ in found} == {"core"}
    names = [name for _, name, *_ in found]
    assert names[0] == "Sequential.forward"
    assert {"im2col", "col2im", "Adam.update"} <= set(names)


def test_the_reading_tour_counts_what_it_should(tmp_path, monkeypatch):
    from benchmarks import reading

    path = tmp_path / "example.py"
    source = ['"""Text."""', "", "", "def f(x):", '    """Text', '    text."""', "    # comment", ""]
    path.write_text("\n".join([*source, "    def g():", "        return x", "", "    return g  # comment", ""]))
    assert sorted(reading.code_lines(path)) == [4, 9, 10, 12]
    assert reading.functions(path) == [("f", 4, 12)]


@pytest.mark.parametrize("backend", ["plain", "numpy"])
def test_the_environment_variable_chooses_the_backend(backend):
    code = "import minicnn as mc; print(mc.backends.current().name)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"MINICNN_BACKEND": backend}, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == backend, done.stderr


def test_the_page_on_the_seam_names_every_operation():
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    operations = [name for name in vars(mc.core.operations.Operations) if not name.startswith("_")]
    assert [name for name in operations if f"`{name}" not in text] == []


def test_the_example_of_that_page_runs():
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    try:
        exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    finally:
        mc.use("numpy")
