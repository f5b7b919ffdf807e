"""A coarse store: a small store that follows another text by text, which search looks at first.

Text i of it is made of text i of the store that it follows, deleted ones included, so that a text has one number in
both. Adding texts to the followed store leaves what is there valid; :func:`make_coarse` then makes what is missing, and
search scores those texts exactly until then. Deleted texts are passed over. Compaction numbers texts anew, and a coarse
store is then made again.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..errors import InputError
from ..files import named
from . import columns
from .mean import Mean
from .muvera import Muvera
from .pooling import Pooling
from .store import TokenStore

#: Texts that are made and committed together.
_PART = 1024


class Method(Protocol):
    """What makes small texts of texts: a frozen dataclass, whose fields are kept with the coarse store."""

    def dimension(self, dim: int) -> int:
        """Numbers of a token, for texts of dimension ``dim``."""

    def documents(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the coarse store keeps of each text."""

    def queries(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What is compared with it by MaxSim, of each query."""


METHODS: dict[str, Callable[..., Method]] = {"mean": Mean, "pooling": Pooling, "muvera": Muvera}


def settings_of(method: Method) -> dict[str, Any]:
    """A method's name and fields, of which :data:`METHODS` makes it again.

    Raises
    ------
    InputError
        Something that is no method, such as its name.
    """
    for name, kind in METHODS.items():
        if type(method) is kind:
            return {"method": name, **vars(method)}
    raise InputError(f"method: expected a first stage such as Mean(), got {method!r}")


def method_of(coarse: TokenStore) -> Method:
    """The method that made a coarse store.

    Raises
    ------
    InputError
        A store that is no coarse store.
    """
    settings = coarse.metadata.get("coarse")
    if not isinstance(settings, dict) or settings.get("method") not in METHODS:
        raise InputError(
            f"coarse: {coarse.path} is no coarse store; make one with optical-rs index --first_stage"
        )
    return METHODS[settings["method"]](**{key: value for key, value in settings.items() if key != "method"})


def make_coarse(
    store: TokenStore,
    path: str | os.PathLike[str],
    method: Method,
    *,
    dtype: str = "int8",
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Make a coarse store, or make what an existing one lacks of the store that it follows.

    It is committed every 1,024 texts, so that an interrupted call is continued by the next.

    Parameters
    ----------
    store : TokenStore
    path : path
        A new directory, or a coarse store of ``store`` that was made by the same method.
    method : Mean, Pooling or Muvera
    dtype : {"float32", "float16", "bfloat16", "int8"}
        How its tokens are kept.
    progress : callable, optional
        Called with the number of texts done and of all texts.

    Returns
    -------
    TokenStore
        For ``coarse`` of :func:`~optical_rs.similarity.search`.

    Raises
    ------
    InputError
        A directory that holds something else, or something that is no method.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from optical_rs.similarity import Pooling, TokenStore, make_coarse, search
    >>> folder = tempfile.mkdtemp()
    >>> store = TokenStore.create(f"{folder}/store", dim=2)
    >>> store.append([np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]), np.array([[-1, 0.0]])], ids=["a", "b"])
    >>> coarse = make_coarse(store, f"{folder}/coarse", Pooling(2))
    >>> [len(coarse[i]) for i in range(2)], search([np.eye(2)], store, 1, coarse=coarse)
    ([2, 1], [[('a', 2.0)]])
    """
    store, path = store.snapshot(), named(path)
    settings = settings_of(method)
    if columns.holds_store(path):
        coarse = TokenStore(path)
        if coarse.metadata.get("coarse") != settings or coarse.dtype != dtype:
            raise InputError(
                f"path: {path} already holds a store, which was not made by {settings} as {dtype}; remove it"
            )
        _expect_following(coarse, store)
    else:
        metadata = {**store.metadata, "coarse": settings}
        coarse = TokenStore.create(path, method.dimension(store.dim), metadata, dtype=dtype)
    with coarse.writing():
        _expect_following(coarse, store)
        nothing = np.zeros((0, store.dim), np.float32)
        deleted = store.deleted
        for first in range(len(coarse), len(store), _PART):
            last = min(first + _PART, len(store))
            texts = [nothing if deleted[i] else store[i] for i in range(first, last)]
            # What the texts so far are, so that this can be compared later.
            marks = [""] * (last - first - 1) + [store.view.mark(last)]
            coarse.append(method.documents(texts), [str(i) for i in range(first, last)], marks)
            if progress:
                progress(last, len(store))
    return coarse


def pool(
    store: TokenStore,
    path: str | os.PathLike[str],
    factor: int = 4,
    *,
    dtype: str = "int8",
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """:func:`make_coarse` with :class:`~optical_rs.similarity.Pooling`."""
    return make_coarse(store, path, Pooling(factor), dtype=dtype, progress=progress)


def follows(coarse: TokenStore, store: TokenStore) -> bool:
    """Whether the texts of a coarse store are those that a store begins with."""
    known = len(coarse)
    return not known or (known <= len(store) and coarse.contents[known - 1] == store.view.mark(known))


def _expect_following(coarse: TokenStore, store: TokenStore) -> None:
    if not follows(coarse, store):
        raise InputError(
            f"coarse: {coarse.path} was made of other texts than {store.path} has, or before it was compacted; "
            "make it again, by optical-rs index or make_coarse"
        )


class Stage:
    """A coarse store and the store that it follows, as they are at one moment, ready to find candidates."""

    def __init__(self, coarse: TokenStore, store: TokenStore):
        coarse = coarse.snapshot()
        self.method = method_of(coarse)
        if coarse.dim != self.method.dimension(store.dim):
            raise InputError(f"coarse: {coarse.path} is not for tokens of dimension {store.dim}")
        _expect_following(coarse, store)
        self.view, self.known = store.view, len(coarse)
        self._empty = not len(coarse.values)
        self._texts = _core.Texts(
            "coarse",
            coarse.values if coarse.scales is None else (coarse.values, coarse.scales),
            coarse.offsets,
        )
        # A text that is deleted in the one has no place in the other.
        self._places = _core.Places(np.ascontiguousarray(store.places[: self.known]))

    @classmethod
    def of(cls, coarse: TokenStore, store: TokenStore) -> "Stage":
        """Made once for what both hold: it is kept with the coarse store."""
        kept: Stage | None = coarse.view.stage
        if kept is None or kept.view is not store.view:
            kept = coarse.view.stage = Stage(coarse, store)
        return kept

    def candidates(
        self, queries: Sequence[np.ndarray], count: int, allowed: np.ndarray | None, progress: Any
    ) -> list[list[int]]:
        """The texts that look best for each query, and all that the coarse store does not have yet; ascending.

        Parameters
        ----------
        queries : sequence of (tokens, dim) float32 arrays
        count : int
            Candidates of each query.
        allowed : (numbers) int array, optional
            The only texts to find.
        progress : callable or None
        """
        numbers = None if allowed is None else allowed[allowed < self.known].tolist()
        new = (
            np.arange(self.known, len(self.view.lengths))
            if allowed is None
            else allowed[allowed >= self.known]
        )
        if self._empty or numbers == []:
            return [new.tolist() for _ in queries]
        with np.errstate(over="ignore"):
            asked = self.method.queries(queries)
        for i, text in enumerate(asked):
            if not np.isfinite(text).all():
                raise InputError(
                    f"queries: expected tokens whose sum fits single precision, got larger ones in query {i}"
                )
        texts = _core.Texts("queries", asked, None)
        offsets, found, _ = _core.search(texts, self._texts, self._places, count, numbers, progress)
        return [
            np.concatenate([np.sort(found[start:end]), new]).tolist()
            for start, end in itertools.pairwise(offsets.tolist())
        ]
