"""Messages of programs, as translators keep them: PO, XLIFF, and what else translate-toolkit reads."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError, require


def read_messages(path: Path, columns: tuple[str, str] = ("foreign", "english")) -> Iterator[tuple]:
    """What is translated and not marked as fuzzy; the source is English.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    factory = require("translate.storage.factory", "data")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        store = factory.getobject(str(path))
    except Exception as error:  # noqa: BLE001 - each format has errors of its own
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    for number, unit in enumerate(store.units, 1):
        if unit.istranslatable() and unit.istranslated() and not unit.isfuzzy():
            yield f"{path}, unit {number}", str(unit.target), str(unit.source)
