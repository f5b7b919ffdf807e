"""Translation memories (TMX), plain, gzipped or in a zip archive; read a unit at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import InputError
from ...files import opened
from .moses import member, open_archive, unpacking

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix != ".zip":
        with opened(path) as file:
            yield file
        return
    with open_archive(path) as archive, unpacking(path):
        names = [name for name in archive.namelist() if name.lower().endswith(".tmx")]
        if len(names) != 1:
            raise InputError(f"{path}: expected one file NAME.tmx, got {', '.join(archive.namelist())}")
        with member(archive, names[0]) as file:
            yield file


def units(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(``tuid``, language → text) of each translation unit; languages are lower-case codes without region.

    Memory holds one unit, however long the file is.

    Raises
    ------
    InputError
        If the file is missing or not valid XML.
    """
    body: Any = None
    try:
        with _opened(path) as file:
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                name = element.tag.rpartition("}")[2]
                if event == "start":
                    body = element if name == "body" else body
                    continue
                if name != "tu":
                    continue
                sides: dict[str, str] = {}
                for variant in element.iter():
                    if variant.tag.rpartition("}")[2] != "tuv":
                        continue
                    code = (variant.get(_LANGUAGE) or variant.get("lang") or "").lower()
                    code = code.replace("_", "-").split("-")[0]
                    text = next((s for s in variant if s.tag.rpartition("}")[2] == "seg"), None)
                    sides[code] = " ".join("".join(text.itertext()).split()) if text is not None else ""
                yield element.get("tuid") or "", sides
                # A unit that was read is taken out of the tree, not just emptied.
                if body is not None:
                    body.clear()
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not valid XML ({error})") from None


def read_tmx(path: Path, columns: tuple[str, str] = ("foreign", "english")) -> Iterator[tuple]:
    """English and the language that ``columns`` names first, or the first other language of each unit.

    Raises
    ------
    InputError
        If no unit has both languages.
    """
    wanted = None if columns[0] == "foreign" else columns[0].lower()
    seen: set[str] = set()
    found = False
    for number, (_, sides) in enumerate(units(path), 1):
        seen |= sides.keys()
        other = wanted or next((code for code in sides if code != "en"), "")
        found |= "en" in sides and other in sides
        yield f"{path}, unit {number}", sides.get(other), sides.get("en")
    if seen and not found:
        raise InputError(
            f"{path}: expected units in English and {wanted or 'another language'}, got {', '.join(sorted(seen))}"
        )
