"""What is published: a source distribution whose tests run, a wheel with nothing but the library, a page of its own."""

import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"

pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="the checkout is not beside the tests")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sets of paths: of the checkout, the source distribution and the wheel; and the wheel's metadata."""
    pytest.importorskip("setuptools", "77", reason="packages are built by setuptools 77 or newer")
    root = tmp_path_factory.mktemp("checkout") / "minicnn"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "*.npz", "mutants")
    shutil.copytree(ROOT, root, ignore=unwanted)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    (root / "dist").mkdir()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (source,), (wheel,) = (root / "dist").glob("*.tar.gz"), (root / "dist").glob("*.whl")
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in in_wheel if name.endswith("METADATA"))
    return files, in_source, in_wheel, metadata


def test_the_source_distribution_is_the_checkout(built):
    files, in_source, _, _ = built
    places = ("minicnn/", "tests/", "examples/", "docs/", "benchmarks/")
    wanted = {file for file in files if file.startswith(places) or file in ("README.md", "CHANGELOG.md", "setup.cfg")}
    assert len(wanted) > 150 and wanted - in_source == set()


def test_the_wheel_is_the_package_alone(built):
    files, _, in_wheel, _ = built
    library = {name for name in in_wheel if ".dist-info/" not in name}
    assert library == {file for file in files if file.startswith("minicnn/")}


def test_the_page_of_the_package_shows_no_file_of_the_checkout(built):
    """On an index there is nothing beside the page: no relative link, no picture."""
    metadata = built[3]
    description = metadata.partition("\n\n")[2]
    assert "# minicnn" in description and "Description-Content-Type: text/markdown" in metadata
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=[\"']([^\"']*)", description)
    assert [link or source for link, source in targets if "://" not in link + source] == []


def test_that_page_says_what_the_readme_says():
    readme, description = ((ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "docs/description.md"))
    blocks = re.findall(r"```python\n.*?```", description, re.DOTALL)
    assert blocks and all(block in readme for block in blocks)
    assert description.split("\n\n")[1] == readme.split("\n\n")[1]
