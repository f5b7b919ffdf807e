"""Hold pairs out of bitext as a known-item collection, and keep texts of tests out of training."""

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ..errors import InputError
from ..files import named
from .bitext import Bitext
from .collection import Collection
from .sources.known_item import known_items, normal

#: Ids are the start of the SHA-256 of a pair, so long.
_DIGITS = 16


def _pairs(bitext: Bitext) -> Iterator[tuple[str, str]]:
    return zip(bitext.foreign, bitext.english, strict=True)


def _digest(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def hold_out(
    bitext: Bitext, *, dev: int = 300, test: int = 500, seed: int = 0, distractors: bool = True
) -> tuple[Bitext, dict[str, Collection]]:
    """Hold pairs out for dev and test.

    A held-out foreign sentence is a query, its English translation the document that is looked for. Pairs are
    chosen by a hash of their English text, so that the order of lines does not matter. Pairs whose English, or
    whose foreign text, differs in no more than case, punctuation and spacing stay in one split, and make one query.

    Parameters
    ----------
    bitext : Bitext
    dev, test : int
        Queries of each.
    seed : int
        Another seed holds out other pairs.
    distractors : bool
        Whether the English of the training pairs is among the documents.

    Returns
    -------
    train : Bitext
        The pairs that are left, in their order.
    collections : dict of str to Collection
        ``"dev"`` and ``"test"`` (those of more than 0 queries), over the same documents.

    Raises
    ------
    InputError
        If no pair would be left to train on.

    Examples
    --------
    >>> bitext = Bitext("toy", [f"neno {i}" for i in range(9)], [f"word {i}" for i in range(9)])
    >>> train, held = hold_out(bitext, dev=2, test=3)
    >>> len(train), {name: len(collection.queries) for name, collection in held.items()}
    (4, {'dev': 2, 'test': 3})
    """
    for name, count in (("dev", dev), ("test", test)):
        if count < 0:
            raise InputError(f"{name}: expected a number of pairs, 0 or more, got {count}")
    sides = [normal(text) for text in bitext.foreign], [normal(text) for text in bitext.english]
    groups = _groups(*sides)
    if dev + test >= len(groups):
        raise InputError(
            f"hold_out: {bitext.name} has {len(groups):,} distinct pairs; dev ({dev}) and test ({test}) leave none; "
            "hold out fewer"
        )
    # A group's hash is the least of its English texts': it depends on content alone.
    order = sorted((min(_digest(sides[1][i], seed) for i in group), group) for group in groups)
    split_of = ["train"] * len(bitext)
    keys = [_digest("\n".join(pair), 0)[:_DIGITS] for pair in zip(*sides, strict=True)]
    asked: dict[str, set[str]] = {"dev": set(), "test": set()}
    chosen = iter(order)
    for name, size in (("test", test), ("dev", dev)):
        for _, group in islice(chosen, size):
            for place in group:
                split_of[place] = name
            query = sides[0][min(group, key=keys.__getitem__)]
            asked[name] |= {keys[place] for place in group if sides[0][place] == query}
    rows: dict[str, tuple[str, str, str]] = {}
    for key, split, (foreign, english) in zip(keys, split_of, _pairs(bitext), strict=True):
        if split != "train" or distractors:
            # Of near-identical pairs the least in the alphabet is kept, whatever the order of lines.
            rows[key] = min(rows.get(key, (key, foreign, english)), (key, foreign, english))
    ordered = [rows[key] for key in sorted(rows)]
    train = bitext.choose(i for i, split in enumerate(split_of) if split == "train")
    held = {}
    for name in ("dev", "test"):
        if asked[name]:
            found = known_items(ordered, asked[name], "query")
            held[name] = Collection(
                f"{bitext.name}, {name}", found.queries, found.documents, found.qrels, "query"
            )
    return train, held


def _groups(foreign: list[str], english: list[str]) -> list[list[int]]:
    """Places of pairs that share a text on either side, directly or through others."""
    parent = list(range(len(foreign)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for texts in (foreign, english):
        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            parent[root(place)] = root(first.setdefault(text, place))
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(foreign)):
        groups[root(place)].append(place)
    return list(groups.values())


def without(bitext: Bitext, texts: Iterable[str]) -> Bitext:
    """The pairs of which neither side is one of these texts, whatever its case, punctuation and spacing.

    Parameters
    ----------
    bitext : Bitext
    texts : iterable of str
        Such as the queries and documents of a test collection, before training.

    Examples
    --------
    >>> without(Bitext("toy", ["moto", "maji"], ["Fire!", "Water"]), ["fire"]).english
    ['Water']
    """
    kept_out = {normal(text) for text in texts}
    return bitext.choose(
        i
        for i, (f, e) in enumerate(_pairs(bitext))
        if normal(f) not in kept_out and normal(e) not in kept_out
    )


def check_output(folder: Path) -> None:
    """Refuse a folder to write to that holds something.

    Raises
    ------
    InputError
        If it is neither new nor empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"output: expected a new or an empty folder, got {folder}")


def write_split(folder: Path, train: Bitext, held: dict[str, Collection]) -> None:
    """Write ``train.tsv`` and a collection that :func:`~optical_rs.data.load_collection` reads.

    Parameters
    ----------
    folder : path
        A new or an empty folder.
    train, held
        As :func:`hold_out` returns them.

    Raises
    ------
    InputError
        If there is something in the folder; nothing is written then.
    """
    check_output(folder)
    folder = named(folder, "folder")
    made = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    (made / "qrels").mkdir(parents=True)

    def write(name: str, lines: Iterable[str]) -> None:
        with open(made / name, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)

    try:
        for split, collection in held.items():
            write(f"queries.{split}.tsv", (f"{q}\t{text}" for q, text in collection.queries.items()))
            judged = ((q, d, r) for q, found in collection.qrels.items() for d, r in found.items())
            write(f"qrels/{split}.txt", (f"{q} 0 {d} {r}" for q, d, r in judged))
        documents = next(iter(held.values())).documents
        write("documents.tsv", (f"{d}\t{text}" for d, text in documents.items()))
        # The first line names the columns, so that no pair is taken for such a line.
        write("train.tsv", ["foreign\tenglish", *(f"{f}\t{e}" for f, e in _pairs(train))])
        if folder.exists():
            folder.rmdir()
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
