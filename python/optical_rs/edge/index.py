"""``index``: documents as a store of tokens, ready to be searched."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path

from ..errors import InputError
from ..similarity import TokenStore
from .encoder import Encoder

#: Documents that are encoded and committed together.
BATCH = 512


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
        A store of another model, windows that do not fit, or an id that is repeated.
    """
    out = Path(out)
    made_with = {"model": encoder.name, "window": window, "overlap": overlap}
    if (out / "store.json").exists():
        store = TokenStore(out)
        found = {key: store.metadata.get(key) for key in made_with}
        if found != made_with or store.dim != encoder.dim:
            raise InputError(f"out: {out} was made with {found}, dimension {store.dim}; got {made_with}")
    else:
        store = TokenStore.create(out, encoder.dim, made_with, dtype=dtype)
    with store.writing():
        deleted = store.deleted
        known = {document_of(store, i) for i in range(len(store)) if not deleted[i]}
        pairs = iter(documents.items() if isinstance(documents, Mapping) else documents)
        done = 0
        total = len(documents) if isinstance(documents, Sized) else 0
        while batch := list(itertools.islice(pairs, BATCH)):
            missing = [(name, text) for name, text in batch if name not in known]
            ids, texts = [], []
            for name, text in missing:
                pieces = [text] if window is None else encoder.windows(text, window, overlap)
                texts += pieces
                ids += [name] if window is None else [f"{name}#{i}" for i in range(len(pieces))]
            if ids:
                store.append(encoder.encode_document(texts), ids, texts)
            done += len(batch)
            if progress:
                progress(done, total)
    return store


def coarse_of(path: str | Path) -> Path:
    """Where the coarse store of an index is, if it has one."""
    path = Path(path)
    return path.with_name(path.name + ".coarse")


def document_of(store: TokenStore, number: int) -> str:
    """The document that a text of a store belongs to."""
    name = store.ids[number]
    return name if store.metadata.get("window") is None else name.rpartition("#")[0]
