"""``TokenCache``: what a model that does not change makes of texts, on disk by the content of both."""

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, overload

import numpy as np

from . import fingerprint
from .data.cache import cache_folder
from .encoding import PRECISIONS, encode, is_exported
from .errors import InputError, texts_only
from .files import path_of
from .progress import progress_bar
from .similarity import TokenStore

#: Texts that are encoded and committed together.
PART = 4096
#: Seconds that a process waits for another one that writes to the same cache.
PATIENCE = 3600.0
#: Seconds that making an empty store may take another process.
MAKING = 10.0


class StoredTokens(Sequence):
    """Tokens of some texts, in their order, wherever in a store they are; read when they are asked for.

    Parameters
    ----------
    store : TokenStore
    places : sequence of int
        The number of each text in the store; a text may be there more than once.

    Attributes
    ----------
    dim : int
        Numbers per token.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> store = TokenStore.create(tempfile.mkdtemp() + "/store", dim=2)
    >>> store.append([np.eye(2), np.ones((3, 2))], ids=["a", "b"])
    >>> tokens = StoredTokens(store, [1, 0, 1])
    >>> len(tokens), tokens[1].shape, tokens.dim
    (3, (2, 2), 2)
    """

    def __init__(self, store: TokenStore, places: Sequence[int] | np.ndarray):
        self.store, self.places = store, np.asarray(places, dtype=np.int64)
        self.dim = store.dim

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, i: slice) -> "StoredTokens": ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return StoredTokens(self.store, self.places[i])
        return self.store[int(self.places[i])]

    def joined(self, other: "StoredTokens") -> "StoredTokens":
        """These texts and then those of another, of the same store and taken later."""
        return StoredTokens(other.store, np.concatenate([self.places, other.places]))

    def __repr__(self) -> str:
        return f"StoredTokens(texts={len(self)}, dim={self.dim}, store={str(self.store.path)!r})"


class TokenCache:
    """What a model that does not change makes of texts, kept on disk by the content of both.

    A text is encoded once, whichever command, run or language asks for it; every 4,096 texts are committed together, so
    that a killed process loses no more than those. One process writes at a time, others wait for it.

    Parameters
    ----------
    model : MultiVectorEncoder or Encoder
    folder : path, optional
        By default ``tokens`` in the user's cache folder (``$XDG_CACHE_HOME/optical_rs`` or ``~/.cache/optical_rs``),
        where it may be deleted at any time at no more cost than that of encoding again.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        How tokens are kept.
    precision : {"float32", "bfloat16"}
        What a model in torch computes in; see :func:`~optical_rs.encoding.encode`. Each has a store of its own.

    Raises
    ------
    InputError
        An unknown precision.
    """

    def __init__(
        self,
        model: Any,
        folder: str | os.PathLike | None = None,
        *,
        dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
        precision: str = "float32",
    ):
        if precision not in PRECISIONS:
            raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.model, self.dtype, self.precision, self.folder = model, dtype, precision, folder
        self.fingerprint = fingerprint_of(model)
        root = path_of("folder", folder) if folder is not None else cache_folder() / "tokens"
        made_in = "" if precision == "float32" else f"-{precision}"
        self.path = root / f"{self.fingerprint[:32]}-{dtype}{made_in}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another machine, it is that machine's cache."""
        return partial(TokenCache, dtype=self.dtype, precision=self.precision), (self.model, self.folder)

    def tokens(self, texts: Sequence[str], role: str) -> StoredTokens:
        """Tokens of texts in the role ``"query"`` or ``"document"``; those that are not in the cache are encoded.

        Query expansion tokens are left out: they stand for no word of the text.

        Raises
        ------
        InputError
            An unknown role, something that is not text, or a folder that cannot be written to.
        """
        texts_only("texts", texts)
        names = [f"{role}:{fingerprint.of_texts([text])[:32]}" for text in texts]
        store = self._opened()
        missing = {name: text for name, text in zip(names, texts, strict=True) if name not in store}
        if missing:
            with store.writing(timeout=PATIENCE):
                # Another process may have encoded some of them since.
                missing = {name: text for name, text in missing.items() if name not in store}
                self._encode(store, missing, role)
        return StoredTokens(store, [store.index(name) for name in names])

    def _opened(self) -> TokenStore:
        waited = 0.0
        while not (self.path / "store.json").exists():
            try:
                return TokenStore.create(
                    self.path, dim_of(self.model), {"model": self.fingerprint}, dtype=self.dtype
                )
            except InputError:
                # Another process may be making it: there is a store in a moment, or something else is wrong. What
                # cannot be written to is wrong at once.
                place = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
                if waited > MAKING or not (place.is_dir() and os.access(place, os.W_OK)):
                    raise
                time.sleep(0.05)
                waited += 0.05
        return TokenStore(self.path)

    def _encode(self, store: TokenStore, missing: dict[str, str], role: str) -> None:
        # Texts of a like length go together, and the longest first: how far it is says how long it takes.
        order = sorted(missing, key=lambda name: len(missing[name]), reverse=True)
        with progress_bar(f"encoding {role} texts", "text") as progress:
            for first in range(0, len(order), PART):
                part = order[first : first + PART]

                def report(done: int, _: int, first: int = first) -> None:
                    progress(first + done, len(order))

                texts = [missing[name] for name in part]
                options: dict[str, Any] = {
                    "precision": self.precision,
                    "expansion": False,
                    "progress": report,
                }
                store.append(encode(self.model, texts, role, **options), part)


def dim_of(model: Any) -> int:
    """Numbers per token of a model in torch or of an exported one."""
    return model.dim if is_exported(model) else model.get_embedding_dimension()


def fingerprint_of(model: Any) -> str:
    """The content hash of a model in torch or of an exported one; see :mod:`optical_rs.fingerprint`."""
    if is_exported(model):
        # What is exported of one model with other weights is another encoder.
        return fingerprint.of_settings([fingerprint.of_files(model.path), model.precision])
    return fingerprint.of_model(model)
