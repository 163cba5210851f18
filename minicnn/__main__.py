"""The command line: `python -m minicnn COMMAND`."""

import argparse
import pathlib
import sys

from minicnn.core import gradcheck
from minicnn.core.errors import InputError, MinicnnError
from minicnn.datasets import load_letters, load_notmnist
from minicnn.inspect.explain import explain, story
from minicnn.model import load


def main():
    """Run the command; the exit code is 1 where it fails."""
    parser = argparse.ArgumentParser(prog="python -m minicnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("gradcheck", help="check every layer's and loss's gradient numerically")
    command.set_defaults(run=gradcheck.main)
    add_explain(commands)
    story.add_command(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except MinicnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def add_explain(commands):
    """The command `explain`."""
    command = commands.add_parser("explain", help="write a page on which every number of a network can be traced")
    command.add_argument("model", help="a saved network (.npz)")
    command.add_argument("image", help="a picture of any size; or letters:N or PATH:N, image N of a test set")
    command.add_argument("-o", "--output", default="page.html", help="the page (default: page.html)")
    command.add_argument("--label", type=int, help="the right class, from 0 (known for an image of a test set)")
    command.add_argument("--training", action="store_true", help="compute as in training, where Dropout drops")
    command.set_defaults(run=run_explain)


def run_explain(arguments):
    """Write the page of a saved network and an image."""
    model = load(arguments.model)
    image, label = arguments.image, arguments.label
    source, _, index = image.rpartition(":")
    if source and index.isdigit() and not pathlib.Path(image).exists():
        _, (images, labels) = load_letters() if source == "letters" else load_notmnist(source)
        if int(index) >= len(images):
            raise InputError(f"{image}: the test set has {len(images)} images, numbered from 0")
        image, label = images[int(index)], int(labels[int(index)]) if label is None else label
    explain(model, image, label, training=arguments.training).save(arguments.output)
    print(f"{arguments.output}: open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
