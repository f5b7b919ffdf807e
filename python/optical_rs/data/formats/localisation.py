"""Messages of programs, as translators keep them: PO, XLIFF, and what else translate-toolkit reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError, require


def read_messages(path: Path, columns: tuple[str, str] = ("foreign", "english")) -> Iterator[tuple]:
    """What is translated and not marked as unfinished; the source is English.

    Unfinished is what is fuzzy in PO, has ``state="initial"`` in XLIFF 2, and in XLIFF 1.2 ``approved="no"`` or, where
    ``approved`` is not given, one of the states ``new`` and ``needs-…``.

    Raises
    ------
    InputError
        If the file is missing, cannot be read, or says that its source is in another language than English.
    """
    factory = require("translate.storage.factory", "data")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        store = _store(factory, path)
    except Exception as error:  # noqa: BLE001 - each format has errors of its own
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    for language in _sources(store):
        if language.lower().replace("_", "-").partition("-")[0] not in ("en", "eng"):
            raise InputError(f"{path}: expected English as the source language, got '{language}'")
    for number, unit in enumerate(store.units, 1):
        if unit.istranslatable() and _finished(unit):
            yield f"{path}, unit {number}", str(unit.target), str(unit.source)


def _store(factory: Any, path: Path) -> Any:
    """A file's units; the library does not tell XLIFF 2 from 1 by itself."""
    try:
        return factory.getobject(str(path))
    except ValueError as error:
        if "XLIFF 2" not in str(error):
            raise
    return require("translate.storage.xliff2", "data").Xliff2File.parsefile(str(path))


def _sources(store: Any) -> set[str]:
    """The source languages that an XLIFF file declares."""
    if "xliff" not in type(store).__name__.lower():
        return set()
    elements = [element for element in store.document.getroot().iter() if isinstance(element.tag, str)]
    found = {element.get(name) for element in elements for name in ("source-language", "srcLang")}
    return {language for language in found if language}


def _finished(unit: Any) -> bool:
    if not str(getattr(getattr(unit, "xmlelement", None), "tag", "")).endswith("trans-unit"):
        return unit.istranslated() and not unit.isfuzzy()
    # The library takes units without `approved` for fuzzy, which many programs never write.
    if approved := unit.xmlelement.get("approved"):
        return bool(unit.target) and approved == "yes"
    targets = [element for element in unit.xmlelement if str(element.tag).endswith("target")]
    states = [target.get("state") or "" for target in targets]
    return bool(unit.target) and not any(state == "new" or state.startswith("needs-") for state in states)
