"""What every engine does in the same way."""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..edge.encoder import Encoder
from ..edge.fields import Fields, fields_of, kind, values_of
from ..edge.index import document_of
from ..errors import InputError, whole
from ..fingerprint import expect_related
from ..lock import NAME as LOCK
from ..lock import folder_lock
from ..similarity import TokenStore, columns
from ..similarity.maxsim import FirstStage
from ..similarity.store import making

#: Texts that are sent or read together: some 40 MB of passages in float32.
BATCH = 512
#: Results of a search at most; engines take no larger numbers, and have no more texts.
_MOST = 2**31 - 1
#: What has to be equal for texts of two stores to be in one engine.
_SAME = ("encoder", "fingerprint", "window", "overlap")


@dataclasses.dataclass(frozen=True)
class Found:
    """A text that an engine found.

    Attributes
    ----------
    document : str
        The id of the document.
    id : str
        The id of the text in the store: that of the document, or of its best piece if documents were cut into pieces.
    score : float
        MaxSim, as the engine computes it.
    text : str
        What the text says.
    fields : dict
        Such as the document's language or year.
    """

    document: str
    id: str
    score: float
    text: str
    fields: Mapping[str, Any]


class Engine(Protocol):
    """What each module of :mod:`optical_rs.engines` has."""

    def write(self, store: TokenStore, target: Any) -> None:
        """Write a store's texts; those that the target has already are replaced, and deleted ones removed."""

    def search(
        self,
        target: Any,
        queries: Sequence[Any],
        k: int = 10,
        *,
        filters: Mapping[str, Any] | None = None,
        encoder: Encoder | None = None,
    ) -> list[list[Found]]:
        """The best ``k`` documents of each query."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a target holds, as it says itself.

    Attributes
    ----------
    dim : int
        Numbers per token.
    metadata : dict
        That of the store: which model made it, and of what pieces.
    fields : dict of str to list of str
        The kinds of each field's values; ``"list"`` among them if some documents have a list.
    options : dict
        How the engine keeps the texts.
    """

    dim: int
    metadata: dict[str, Any]
    fields: dict[str, list[str]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, store: TokenStore, **options: Any) -> "About":
        """Of a store, whose fields are read through once."""
        kinds: dict[str, set[str]] = {}
        fields = Fields(store.path)
        documents = (document_of(store, i) for i in live(store)) if fields.exists else ()
        for document, _ in itertools.groupby(documents):  # the pieces of one follow each other
            for name, value in fields.of(document).items():
                own = kinds.setdefault(name, set())
                own |= {kind(v) for v in values_of(value)} | ({"list"} if isinstance(value, list) else set())
        return cls(
            store.dim, store.metadata, {name: sorted(own) for name, own in sorted(kinds.items())}, options
        )

    @classmethod
    def read(cls, text: str | bytes | None, target: Any) -> "About":
        """What :meth:`text` wrote.

        Raises
        ------
        InputError
            There is nothing of the kind.
        """
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            raise InputError(
                f"target: {target} does not hold texts of optical_rs, or was not written to its end"
            ) from None

    def text(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    def with_fields(self, other: "About") -> "About":
        """With the fields of another, too."""
        names = sorted(self.fields.keys() | other.fields.keys())
        fields = {n: sorted({*self.fields.get(n, ()), *other.fields.get(n, ())}) for n in names}
        return dataclasses.replace(self, fields=fields)

    @property
    def kinds(self) -> dict[str, set[str]]:
        """The kinds of each field's values, for filters."""
        return {name: set(own) - {"list"} for name, own in self.fields.items()}

    def expect_same(self, other: "About", target: Any) -> None:
        """Refuse a store whose texts do not belong with those of the target.

        Raises
        ------
        InputError
            Another dimension, model or pieces.
        """
        if self.dim != other.dim:
            raise InputError(f"store: has dimension {other.dim}, but {target} has {self.dim}")
        wrong = [key for key in _SAME if self.metadata.get(key) != other.metadata.get(key)]
        if {"encoder", "fingerprint"} & set(wrong):
            raise InputError(
                f"store: was made with another model ({other.metadata.get('model')}) than what {target} holds "
                f"({self.metadata.get('model')})"
            )
        if wrong:
            said = ", ".join(
                f"{key} {self.metadata.get(key)}, got {other.metadata.get(key)}" for key in wrong
            )
            raise InputError(f"store: {target} was written with {said}")

    def document(self, name: str) -> str:
        """The document of a text."""
        return name if self.metadata.get("window") is None else name.rpartition("#")[0]

    def queries(self, given: Sequence[Any], encoder: Encoder | None) -> list[np.ndarray]:
        """The tokens of each query, checked.

        Raises
        ------
        InputError
            Another dimension, NaN or infinity, or an encoder with another teacher.
        """
        if isinstance(given, str):
            raise InputError(f"queries: expected a list, got the string {given!r}")
        if encoder is not None:
            expect_related(encoder.identity, self.metadata, "encoder: the model")
            given = encoder.encode_query(given) if len(given) else []
        elif any(isinstance(query, str) for query in given):
            raise InputError("encoder: expected the exported model that encodes queries, as these are texts")
        arrays = [np.ascontiguousarray(query, dtype=np.float32) for query in given]
        for i, array in enumerate(arrays):
            if array.ndim != 2 or array.shape[1] != self.dim:
                raise InputError(f"queries: expected shape (tokens, {self.dim}) at {i}, got {array.shape}")
            if not np.isfinite(array).all():
                raise InputError(f"queries: query {i} has NaN or infinity")
        return arrays


def count(argument: str, given: Any) -> int:
    """A number of results, or of candidates, as any engine takes it.

    Raises
    ------
    InputError
        Something else than an integer, or one below 1.
    """
    return min(whole(argument, given), _MOST)


def live(store: TokenStore) -> list[int]:
    """The numbers of the texts that are not deleted."""
    numbers: list[int] = np.flatnonzero(~store.deleted).tolist()
    return numbers


def gone(store: TokenStore) -> list[str]:
    """The ids of texts that were deleted and are not there anew."""
    return sorted({store.ids[i] for i in np.flatnonzero(store.deleted).tolist() if store.ids[i] not in store})


#: Id, tokens, what it says, fields.
Text = tuple[str, np.ndarray, str, dict[str, Any]]


def batches(store: TokenStore) -> Iterator[list[Text]]:
    """A store's texts, so many at a time, with the fields that are beside it."""
    fields = Fields(store.path)
    numbers = live(store)
    for first in range(0, len(numbers), BATCH):
        yield [
            (store.ids[i], store[i], store.contents[i], fields.of(document_of(store, i)))
            for i in numbers[first : first + BATCH]
        ]


def best_documents(
    fetch: Callable[[int], list[tuple[str, float, str, Mapping[str, Any]]]], k: int, about: About
) -> list[Found]:
    """The ``k`` best documents, each by its best piece; pieces are fetched until there are enough."""
    pieces = k
    while True:
        rows = fetch(pieces)
        best: dict[str, Found] = {}
        for name, score, text, fields in sorted(
            rows, key=lambda row: (row[1], row[0].encode()), reverse=True
        ):
            document = about.document(name)
            best.setdefault(document, Found(document, name, score, text, fields))
        if about.metadata.get("window") is None or len(best) >= k or len(rows) < pieces:
            return list(best.values())[:k]
        pieces *= 2


def read_into(
    path: str | Path, about: About, texts: Iterator[Text], dtype: str, *, metadata: dict[str, Any]
) -> TokenStore:
    """A new store of texts, and their fields beside it; on failure nothing is left of them."""
    fields = fields_of(path)
    if columns.holds_store(fields):
        raise InputError(f"path: {fields} holds fields already")
    try:
        with making(path, about.dim, metadata, dtype) as store:
            beside = Fields(path)
            while part := list(itertools.islice(texts, BATCH)):
                ids, tokens, contents, own = zip(*part, strict=True)
                beside.write(zip(map(about.document, ids), own, strict=True))
                store.append(tokens, ids, contents)
    except BaseException:
        if columns.holds_store(fields):
            columns.remove(fields)
        raise
    return store


@contextlib.contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """An empty folder, which comes to ``path`` when the block ends without an error.

    It is in ``<path>.new``, where one process at a time makes it; what one that was killed has left there is removed.

    Raises
    ------
    InputError
        Another process makes it, there is something at ``path`` or ``<path>.new``, or the place cannot be written to.
    """
    new = path.with_name(path.name + ".new")
    inside = new / "made"
    foreign = f"target: {new} was not made here, and is left alone; move it away"
    if new.is_file():
        raise InputError(foreign)
    try:
        with folder_lock(new).held(make=True):
            if not only(new, {LOCK, inside.name}):
                (new / LOCK).unlink()
                raise InputError(foreign)
            try:
                if os.path.lexists(path) and not only(path, set()):
                    raise InputError(f"target: {path} exists already, and is left alone")
                shutil.rmtree(inside, ignore_errors=True)
                inside.mkdir()
                yield inside
                if path.is_dir():
                    path.rmdir()
                inside.rename(path)
            finally:
                clear(new)
    except OSError as error:
        raise InputError(f"target: {path} cannot be written to ({error.strerror or error})") from None


def clear(folder: Path) -> None:
    """Remove a folder that is locked here, its lock file last: what is there after that is the next writer's."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file, ignore_errors=True)
            elif file.name != LOCK:
                file.unlink()
        (folder / LOCK).unlink()
        folder.rmdir()


def only(folder: Path, names: set[str]) -> bool:
    """Whether it is a folder with nothing else in it."""
    return folder.is_dir() and {file.name for file in folder.iterdir()} <= names


def first_stage(engine: Engine, target: Any) -> FirstStage:
    """An engine as the first stage of :func:`~optical_rs.similarity.search`, which scores its candidates exactly.

    Of documents that were cut into pieces, the candidates are each document's best piece.

    Parameters
    ----------
    engine : module
        Such as :mod:`optical_rs.engines.qdrant`.
    target
        Where the engine has the store's texts.

    Returns
    -------
    callable
        For ``coarse``.

    Examples
    --------
    >>> from optical_rs.engines import fast_plaid, first_stage
    >>> from optical_rs.similarity import search
    >>> search(queries, store, 10, coarse=first_stage(fast_plaid, fast_plaid.opened("plaid")))  # doctest: +SKIP
    """

    def candidates(queries: Sequence[np.ndarray], number: int) -> list[list[tuple[str, float]]]:
        found = engine.search(target, queries, number)
        return [[(hit.id, hit.score) for hit in hits] for hits in found]

    return candidates
