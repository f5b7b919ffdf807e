"""``optical-rs index``: documents as a store of tokens, ready to be searched."""

import argparse
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path

from ..data import stream_documents
from ..errors import InputError
from ..progress import progress_bar
from ..similarity import TokenStore, columns, pool
from ..similarity.store import DTYPES
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
        warnings.warn(f"out: {store.path} does not say which model made it; it is added to", stacklevel=3)
        found["encoder"] = made_with["encoder"]
    wrong = [key for key, value in made_with.items() if found[key] != value]
    if "encoder" in wrong:
        raise InputError(
            f"out: {store.path} was made with another model ({store.metadata['model']}) than {model}"
        )
    if wrong:
        said = ", ".join(f"{key} {found[key]}, got {made_with[key]}" for key in wrong)
        raise InputError(f"out: {store.path} was made with {said}")


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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``optical-rs index``."""
    parser = argparse.ArgumentParser(prog="optical-rs index", description=__doc__)
    parser.add_argument("--model", required=True, help="an exported model, of the documents' side")
    parser.add_argument(
        "--documents", required=True, help="a file of lines 'id<TAB>text' or of JSON, or a collection"
    )
    parser.add_argument("--out", required=True, type=Path, help="a new store, or one to add to")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="int8", help="how tokens are kept")
    parser.add_argument("--window", type=int, help="cut documents into pieces of so many tokens")
    parser.add_argument("--overlap", type=int, default=0, help="tokens that neighbouring pieces share")
    parser.add_argument(
        "--pool",
        type=int,
        metavar="FACTOR",
        help="also make a coarse store with a token in so many, OUT.coarse, which searches then look at first",
    )
    parser.add_argument("--precision", choices=("int8", "float32"), help="of the model's weights")
    parser.add_argument("--threads", type=int, help="of the model; default: one for each core")
    options = parser.parse_args(arguments)
    factor = expect_coarse(coarse_of(options.out)) or options.pool  # before anything is encoded
    encoder = Encoder(options.model, precision=options.precision, threads=options.threads)
    documents = stream_documents(options.documents)
    with progress_bar("encoding", "document") as progress:
        store = index(
            encoder,
            documents,
            options.out,
            dtype=options.dtype,
            window=options.window,
            overlap=options.overlap,
            progress=progress,
        )
    if factor:
        with progress_bar("pooling", "text") as progress:
            coarse = make_coarse(store, options.pool or factor, progress)
        print(f"{coarse.path}: a token in {options.pool or factor}")
    found = store.inspect()
    print(
        f"{options.out}: {len(documents)} documents, {found['tokens']} tokens, {found['bytes'] / 1e6:.1f} MB "
        f"({found['bytes_per_token']:.0f} bytes a token)"
    )


if __name__ == "__main__":
    from ..cli import run_command

    run_command(main)
