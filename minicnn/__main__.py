"""The command line: `python -m minicnn COMMAND`."""

import argparse
import os
import re
import sys

from minicnn import commands as pictures
from minicnn import console
from minicnn.core import gradcheck
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError
from minicnn.datasets import load_letters, load_notmnist
from minicnn.exchange.any_file import load
from minicnn.exercises import command as exercises
from minicnn.inspect.explain import explain, story


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m minicnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("gradcheck", help="check every layer's and loss's gradient numerically")
    command.set_defaults(run=run_gradcheck)
    add_explain(commands)
    story.add_command(commands)
    pictures.add_train(commands)
    pictures.add_predict(commands)
    pictures.add_summary(commands)
    pictures.add_convert(commands)
    exercises.add_command(commands)
    arguments = parser.parse_args()
    return arguments.run(arguments)


def run_gradcheck(arguments):
    """Print the report of every layer and loss."""
    for report in gradcheck.report_all():
        console.show(report)
    console.show("every gradient agrees with central differences")


def add_explain(commands):
    """The command `explain`."""
    command = commands.add_parser("explain", help="write a page on which every number of a network can be traced")
    command.add_argument("model", help=pictures.NETWORK_FILE)
    command.add_argument("image", help="a picture of any size; or letters:N or PATH:N, image N of a test set")
    command.add_argument("-o", "--output", default="page.html", help="the page (default: page.html)")
    command.add_argument("--label", type=int, help="the right class, from 0 (known for an image of a test set)")
    command.add_argument("--invert", action="store_true", help="the picture has dark letters on a light ground")
    command.add_argument("--training", action="store_true", help="compute as in training, where Dropout drops")
    command.set_defaults(run=run_explain)


def run_explain(arguments):
    """Write the page of a saved network and an image."""
    model = load(arguments.model)
    image, label, invert = arguments.image, arguments.label, arguments.invert
    source, _, index = image.rpartition(":")
    if source and re.fullmatch("[0-9]{1,9}", index) and not os.path.exists(image):
        if source == "letters":
            _, (images, labels) = load_letters()
        else:
            _, (images, labels) = load_notmnist(source, invert=invert)
            invert = False
        if int(index) >= len(images):
            raise InputError(f"{quoted(image)}: the test set has {len(images)} images, numbered from 0")
        image, label = images[int(index)], int(labels[int(index)]) if label is None else label
    explain(model, image, label, training=arguments.training, invert=invert).save(arguments.output)
    console.show(f"{quoted(arguments.output, 300)}: open it in a browser")


if __name__ == "__main__":
    sys.exit(console.run_command(main))
