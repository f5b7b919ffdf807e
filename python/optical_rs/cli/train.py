"""``optical-rs train``, which is ``python -m optical_rs.train``: distil students, and evaluate them."""

import argparse
from collections.abc import Sequence

from . import recipes

DESCRIPTION = (
    "Train students from a teacher and sentence pairs, evaluate them and keep them. Without a recipe and options the demo "
    "runs."
)


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return recipes.build("train", DESCRIPTION, "all")


def main(arguments: Sequence[str]) -> None:
    """The command ``optical-rs train``."""
    recipes.main("train", DESCRIPTION, "all", arguments)
