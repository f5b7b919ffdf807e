"""Bitext of the Hugging Face hub."""

from collections.abc import Iterator

from ...errors import InputError, require
from .delimited import read_rows


def read_hub(spec: str, columns: tuple[str, str]) -> Iterator[tuple]:
    """``hf:name``, ``hf:name:split`` or ``hf:name:config:split``.

    The set has the two columns, or one called ``translation`` with both languages in it.

    Raises
    ------
    InputError
        If the set cannot be had.
    """
    datasets = require("datasets", "train")
    name, *rest = spec.removeprefix("hf:").split(":")
    split = rest.pop() if rest else "train"
    try:
        rows = datasets.load_dataset(name, *rest, split=split)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds for "not there" and "not reached"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{spec}: cannot be loaded ({reason})") from None
    return read_rows(spec, rows, columns)
