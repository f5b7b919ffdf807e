"""NTREX-128: test sentences of news in English and 128 languages. Never for training."""

from collections.abc import Iterator

from ..formats.moses import read_moses
from .known_item import known_items
from .source import SIDES, Found, Part, Repository, Source, choose_language

_GITHUB = Repository("NTREX", "MicrosoftTranslator/NTREX", "8561f6a622db9edad1217683e5c83daefd8bb2bf")
_START, _END = "NTREX-128/newstest2019-ref.", ".txt"


def languages() -> list[str]:
    """The codes that the publisher's files have."""
    paths = (path for path in _GITHUB.pinned() if path.startswith(_START))
    return [path.removeprefix(_START).removesuffix(_END) for path in paths]


def _bitext(language: str, splits: tuple[str, ...]) -> Iterator[tuple]:
    choose_language("ntrex", language, languages())
    english = _GITHUB.file("NTREX-128/newstest2019-src.eng.txt")
    yield from read_moses(_GITHUB.file(f"{_START}{language}{_END}"), english)


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    rows = [(f"s{n}", foreign, english) for n, (_, foreign, english) in enumerate(_bitext(language, splits))]
    return known_items(rows, {key for key, _, _ in rows}, side)


SOURCE = Source(
    name="ntrex",
    spelling="ntrex:hau",
    title="news (NTREX-128), 128 languages, for tests alone; as a collection, sentences over their translations",
    size="1,997 pairs",
    licence="CC BY-SA 4.0",
    repositories=(_GITHUB,),
    bitext=Part(_bitext, ("test",)),
    collection=Part(_collection, ("test",), SIDES),
)
