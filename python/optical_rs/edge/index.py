"""``index``: documents as a store of tokens, ready to be searched."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path

from ..errors import InputError
from ..similarity import TokenStore, columns, pool
from .encoder import COSTLY, Encoder

#: Documents that are encoded and committed together.
BATCH = 512
#: Texts whose tokens are counted to see what a trimmed vocabulary costs.
_SAMPLE = 100


def index(
    encoder: Encoder,
    documents: Mapping[str, str] | Iterable[tuple[str, str]],
    out: str | Path,
    *,
    dtype: str = "int8",
    window: int | None = None,
    overlap: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Encode documents into a store, or add those that a store does not have yet.

    A store is committed every 512 documents: after an interruption the same call goes on where it was.

    Parameters
    ----------
    encoder : Encoder
    documents : dict of str to str, or iterable of (str, str)
        Id → text. Of an iterable, such as :func:`~optical_rs.data.stream_documents`, no more than 512 texts
        are held at a time.
    out : path
        A new directory, or a store that was made with the same model and windows.
    dtype : {"float32", "float16", "bfloat16", "int8"}
        How tokens are kept.
    window, overlap : int, optional
        Cut documents into overlapping pieces of so many tokens; a document's score is that of its best
        piece. By default each document is one text, and what is beyond the model's length is left out.
    progress : callable, optional
        Called with the number of documents done and of all documents (0 if that is not known).

    Returns
    -------
    TokenStore

    Raises
    ------
    InputError
        A store of another model (by content: a model that was moved is the same), windows that do not fit, or an
        id that is repeated.

    Warns
    -----
    UserWarning
        If documents take many more tokens than with the vocabulary that the model had before it was trimmed, or a
        store of an older version does not say which model made it.
    """
    out = Path(out)
    made_with = {"encoder": encoder.content, "window": window, "overlap": overlap}
    if columns.holds_store(out):
        store = TokenStore(out)
        _expect_same(store, {**made_with, "dimension": encoder.dim}, encoder.name)
    else:
        metadata = {"model": encoder.name, **encoder.identity, **made_with}
        store = TokenStore.create(out, encoder.dim, metadata, dtype=dtype)
    with store.writing():
        deleted = store.deleted
        known = {document_of(store, i) for i in range(len(store)) if not deleted[i]}
        pairs = iter(documents.items() if isinstance(documents, Mapping) else documents)
        done = 0
        total = len(documents) if isinstance(documents, Sized) else 0
        measured = False
        while batch := list(itertools.islice(pairs, BATCH)):
            missing = [(name, text) for name, text in batch if name not in known]
            ids, texts = [], []
            for name, text in missing:
                pieces = [text] if window is None else encoder.windows(text, window, overlap)
                texts += pieces
                ids += [name] if window is None else [f"{name}#{i}" for i in range(len(pieces))]
            if texts and not measured:
                _warn_of_cost(encoder, texts[:: -(-len(texts) // _SAMPLE)])
                measured = True
            if ids:
                store.append(encoder.encode_document(texts), ids, texts)
            done += len(batch)
            if progress:
                progress(done, total)
    return store


def _expect_same(store: TokenStore, made_with: dict[str, object], model: str) -> None:
    found = {key: store.metadata.get(key) for key in made_with} | {"dimension": store.dim}
    if "encoder" not in store.metadata:
        warnings.warn(f"output: {store.path} does not say which model made it; it is added to", stacklevel=3)
        found["encoder"] = made_with["encoder"]
    wrong = [key for key, value in made_with.items() if found[key] != value]
    if "encoder" in wrong:
        raise InputError(
            f"output: {store.path} was made with another model ({store.metadata['model']}) than {model}"
        )
    if wrong:
        said = ", ".join(f"{key} {found[key]}, got {made_with[key]}" for key in wrong)
        raise InputError(f"output: {store.path} was made with {said}")


def _warn_of_cost(encoder: Encoder, texts: Sequence[str]) -> None:
    share, cost = encoder.vocabulary_cost(texts)
    if cost > COSTLY:
        warnings.warn(
            f"vocabulary: {share:.0%} of documents lie outside the model's trimmed vocabulary, and they take "
            f"{cost:.1f} × the tokens of the whole one; export the model again with texts like these",
            stacklevel=3,
        )


def coarse_of(path: str | Path) -> Path:
    """Where the coarse store of an index is, if it has one."""
    path = Path(path)
    return path.with_name(path.name + ".coarse")


def make_coarse(
    store: TokenStore, factor: int, progress: Callable[[int, int], None] | None = None
) -> TokenStore:
    """Make the coarse store of an index, in place of the one that it has.

    Parameters
    ----------
    store : TokenStore
    factor, progress
        As for :func:`~optical_rs.similarity.pool`.

    Raises
    ------
    InputError
        If there is anything else in the coarse store's place, or in it.
    """
    path = coarse_of(store.path)
    new = path.with_name(path.name + ".new")
    for place in (path, new):
        expect_coarse(place)
    try:
        if columns.holds_store(new):  # of a run that was interrupted
            columns.remove(new)
        pool(store, new, factor, progress=progress)
        if columns.holds_store(path):
            columns.remove(path)
        new.rename(path)
    except OSError as error:
        raise InputError(f"pool: {path} cannot be replaced ({error.strerror or error})") from None
    return TokenStore(path)


def expect_coarse(path: Path) -> int | None:
    """The factor of a coarse store, if there is one; nothing else may be there.

    Raises
    ------
    InputError
    """
    if not os.path.lexists(path):
        return None
    foreign = path.is_symlink() or not path.is_dir() or set(path.iterdir()) - set(columns.own(path))
    factor = None if foreign else TokenStore(path).metadata.get("pool")
    if type(factor) is not int:
        raise InputError(f"pool: {path} is no coarse store, and is left alone; move it away")
    return factor


def document_of(store: TokenStore, number: int) -> str:
    """The document that a text of a store belongs to."""
    name = store.ids[number]
    return name if store.metadata.get("window") is None else name.rpartition("#")[0]
