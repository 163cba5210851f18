"""The lab as a notebook: in step with its source, and run from top to bottom on few images."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import minicnn as mc

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="only a checkout has the examples")
jupytext = pytest.importorskip("jupytext", reason="the notebook's source is read by jupytext")
nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat")

#: Instead of the cell of settings.
SMALL = "DATA, IMAGES, EPOCHS, UNITS = 'letters', 300, 1, 40"
#: What a reader may write into `my_split`: right, and wrong in every way that `problem` names.
SPLITS = """
def stratified(y):
    return mc.datasets.stratified_split(y.argmax(axis=1), 0.1, rng)


def half(y):
    return np.arange(0, len(y), 2), np.arange(1, len(y), 2)


def twice(y):
    return np.arange(len(y)), np.arange(0, len(y), 10)


print([problem(split) for split in (stratified, lab_split, half, twice)])
"""


@pytest.fixture(scope="module")
def source():
    return jupytext.read(EXAMPLES / "lab.py")


def code(notebook, *words):
    """The one cell of code with these words."""
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and all(word in c.source for word in words)]
    return cell


def test_the_notebook_is_its_source_without_outputs(source):
    notebook = nbformat.read(EXAMPLES / "lab.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells] == [
        (cell.cell_type, cell.source, cell.metadata) for cell in source.cells
    ], "run: jupytext --sync examples/lab.ipynb"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_every_step_says_the_line_of_the_other_library(source):
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    sections = re.findall(r"(?ms)^##+ ([^\n]*)\n(.*?)(?=^##+ |\Z)", text)
    steps = [(title, body) for title, body in sections if title not in ("Settings", "Questions", "Fix it")]
    assert len(steps) > 12
    for title, body in steps:
        assert re.search(r"Keras|Scikit-learn: `|same line|In the lab it was", body), title


def test_the_networks_are_those_of_the_library(source):
    for name in ("two_conv", "conv_pool", "lenet5"):
        names = {"mc": mc, "UNITS": 5000}
        exec(code(source, f"def {name}():").source.split("\n\n\n")[0].replace("(1, 28, 28)", "None"), names)
        assert repr(names[name]().layers) == repr(getattr(mc.networks, name)(input_shape=None).layers)


def test_the_images_of_an_archive_come_in_the_order_of_its_letters(source, tmp_path, rng):
    for letter in mc.datasets.LETTERS:
        (tmp_path / letter).mkdir()
        for number in range(3):
            pixels = np.full((28, 28), 20 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / letter / f"{number}.png")
    names = {"np": np, "mc": mc, "DATA": str(tmp_path), "IMAGES": 20}
    exec(code(source, "read_notmnist").source, names)
    assert names["images"].shape == (20, 28, 28) and (np.diff(names["labels"]) >= 0).all()
    assert len(set(names["labels"])) > 5


def test_it_runs_from_top_to_bottom(source, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks")
    pytest.importorskip("ipykernel", reason="ipykernel runs the cells of notebooks")
    pytest.importorskip("matplotlib", reason="the notebook draws")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.from_dict(source)
    cells = notebook.cells
    (settings,) = [k for k, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    cells.insert(settings + 1, nbformat.v4.new_code_cell(SMALL))
    check = cells.index(code(notebook, "def problem"))
    cells.insert(check + 1, nbformat.v4.new_code_cell(SPLITS))
    nbclient.NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}, timeout=600
    ).execute()

    def output(*words):
        return "".join(o.get("text", "") for o in code(notebook, *words).outputs if o.get("name") == "stdout")

    def result(kind, *words):
        return [o.data[kind] for o in code(notebook, *words).outputs if kind in o.get("data", {})]

    for words in (["plt.imshow"], ["training_curves(history)"], ["lab.histories"], ["comparison.histories"],
                  ["confusion_matrix"], ["confident_mistakes"]):  # fmt: skip
        assert len(result("image/png", *words)) == 1, words
    (table,) = result("text/html", 'lab.add("LeNet-5"')
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[1:-1]]
    assert [row[0] for row in rows] == ["two convolutions", "convolution, pooling", "LeNet-5"]
    assert all(float(row[5].split()[0]) < 20 for row in rows)  # nothing but Js, or nearly
    assert "61,706" in output("def lenet5")
    assert "no image of A, B, C" in output("def problem")
    right, lab, half, twice = eval(output("half(y)"))
    assert right == "" and "no image" in lab and "tenth" in half and "exactly one side" in twice
    (table,) = result("text/html", "best_first")
    tests = [float(row.split(">")[-2].split()[0]) for row in re.findall("<tr>(.*?)</tr>", table)[1:]]
    assert len(tests) == 7 and tests == sorted(tests, reverse=True)
    counts = output("if problem(my_split)").split("[")[1].rstrip("]\n").split()
    assert set(counts) <= {"2", "3", "4"}  # a tenth of every letter
