"""MENYO-20k: Yoruba and English in several domains.

The training set is not divided by domain. ``menyo:news/dev`` trains on a domain's dev part instead, and its collection asks
for no sentence of that.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...files import lines_of
from ..formats.delimited import quoted_fields
from .known_item import known_items, normal
from .source import SIDES, Found, Part, Repository, Source, choose_language

_GITHUB = Repository("menyo-20k_MT", "uds-lsv/menyo-20k_MT", "0f2b019c2264a90813559c2e1cd7143054a4c36c")
_PARTS = ("train", "dev", "test")


@functools.lru_cache(maxsize=1)
def _splits() -> dict[str, list[str]]:
    """Domain (``""``: all) → splits; the training set is not divided by domain."""
    found: dict[str, list[str]] = {}
    for path in _GITHUB.pinned():
        split, _, domain = Path(path).stem.partition("_")
        found.setdefault(domain, []).append(split)
    return found


def _parse(rest: str) -> tuple[str, bool]:
    """The domain, and whether its dev part is for training."""
    domain, _, variant = rest.partition("/")
    if domain:
        choose_language("menyo", domain, _splits(), "domain")
    if variant not in ("", "dev") or rest.startswith("/"):
        raise InputError(f"menyo: no variant '{rest}'; expected a domain such as news, or news/dev")
    return domain, bool(variant)


def bitext_splits(rest: str) -> tuple[str, ...]:
    """The splits of a domain."""
    domain, trains = _parse(rest)
    found = _splits()[domain]
    if trains:
        return ("train", "test")
    return tuple(s for s in _PARTS if s in found)


def collection_splits(rest: str) -> tuple[str, ...]:
    """The splits whose sentences are queries."""
    return ("test",) if _parse(rest)[1] else ("dev", "test")


def _rows(domain: str, part: str) -> Iterator[tuple]:
    path = _GITHUB.file(f"data/{part}_{domain}.tsv" if domain else f"data/{part}.tsv")
    for number, line in lines_of(path):
        fields = quoted_fields(f"{path}:{number}", line)
        if len(fields) != 2:
            raise InputError(f"{path}:{number}: expected English and Yoruba, got {len(fields)} columns")
        english, yoruba = fields
        # Two of the files have no first line of names; English is on the left in all of them.
        if number > 1 or english.lower() != "english":
            yield f"{path}:{number}", yoruba, english


def _bitext(rest: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    domain, trains = _parse(rest)
    for split in splits:
        yield from _rows(domain, "dev" if trains and split == "train" else split)


def _collection(rest: str, splits: tuple[str, ...], side: str) -> Found:
    domain, trains = _parse(rest)
    seen = {normal(english) for _, _, english in _rows("", "train")}
    if trains:
        seen |= {normal(english) for _, _, english in _rows(domain, "dev")}
    rows = [
        (f"{part}-{number}", foreign, english)
        for part in ("dev", "test")
        for number, (_, foreign, english) in enumerate(_rows(domain, part))
    ]
    asked = {key for key, _, _ in rows if key.partition("-")[0] in splits}
    return known_items(rows, asked, side, seen=seen)


SOURCE = Source(
    name="menyo",
    spelling="menyo:news",
    title=(
        "Yoruba (MENYO-20k), all of it (`menyo`) or dev and test of a domain: book, digital, news, proverbs, "
        "tedTalks; `menyo:news/dev` trains on a domain's dev part; as a collection, sentences over their translations"
    ),
    size="10,070 · 3,397 · 6,633 pairs",
    licence="CC BY-NC 4.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, bitext_splits),
    collection=Part(_collection, collection_splits, SIDES),
)
