"""``optical-rs experiment``: compare systems over languages and seeds."""

import argparse
from collections.abc import Sequence

from . import recipes

DESCRIPTION = "Compare systems over languages and seeds, as a recipe says; see docs/how-to/recipes.md."


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return recipes.build("experiment", DESCRIPTION, "none")


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs experiment``."""
    recipes.main("experiment", DESCRIPTION, "none", arguments)
