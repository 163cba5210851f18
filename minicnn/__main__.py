"""The command line: `python -m minicnn COMMAND`."""

import argparse
import sys

from minicnn import gradcheck
from minicnn.errors import MinicnnError
from minicnn.explain import add_command, story


def main():
    """Run the command that the arguments name; 1 if it fails."""
    parser = argparse.ArgumentParser(prog="python -m minicnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("gradcheck", help="check every layer's and loss's gradient numerically")
    command.set_defaults(run=gradcheck.main)
    add_command(commands)
    story.add_command(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except MinicnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
