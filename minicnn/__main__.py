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
from minicnn.inspect.explain import explain, live_server, story
from minicnn.inspect.explain.experiment import kept_epochs

EXAMPLES = 500  # images of a test set among which `explain` finds those that excite a filter most


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
    pictures.add_network(command, "model")
    command.add_argument("image", help="a picture of any size; or letters:N or PATH:N, image N of a test set")
    command.add_argument("-o", "--output", help="the page (default: page.html)")
    command.add_argument("--label", help="the right class, its name or its number (known for an image of a test set)")
    command.add_argument("--invert", action="store_true", help="the picture has dark letters on a light ground")
    command.add_argument("--training", action="store_true", help="compute as in training, where Dropout drops")
    command.add_argument("--live", action="store_true", help="serve a page on this machine that can change all of it")
    command.add_argument("--epochs", metavar="PATTERN", help="with --live: the networks that ModelCheckpoint kept")
    command.add_argument("--port", type=int, default=0, help="with --live: the port (default: any free one)")
    command.add_argument("--open", action="store_true", help="with --live: open the page in a browser")
    command.set_defaults(run=run_explain)


def run_explain(arguments):
    """Write the page of a saved network and an image, or serve it."""
    _check_options(arguments)
    model = pictures.load_network(arguments.model, arguments)
    image, label, invert = arguments.image, arguments.label, arguments.invert
    examples = None
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
        examples = images[:EXAMPLES]
    options = {"training": arguments.training, "invert": invert}
    if arguments.live:
        epochs = kept_epochs(arguments.epochs) if arguments.epochs is not None else None
        return live_server(model, image, label, epochs=epochs, load=load, port=arguments.port, **options).run(
            opens=arguments.open
        )
    output = "page.html" if arguments.output is None else arguments.output
    explain(model, image, label, examples=examples, **options).save(output)
    console.show(f"{quoted(output, 300)}: open it in a browser")


def _check_options(arguments):
    """Refuse an option that would be without effect."""
    if arguments.live and arguments.output is not None:
        raise InputError("--live serves a page and writes none: leave out --output, or --live")
    without_effect = [f"--{name}" for name in ("epochs", "port", "open") if getattr(arguments, name)]
    if without_effect and not arguments.live:
        raise InputError(f"{without_effect[0]} is of the live page: add --live")


if __name__ == "__main__":
    sys.exit(console.run_command(main))
