"""``optical-rs index``: documents as a store of tokens, ready to be searched."""

import argparse
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path

from ..data import stream_documents
from ..errors import InputError
from ..progress import progress_bar
from ..similarity import TokenStore, pool
from ..similarity.store import DTYPES
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
    coarse = coarse_of(options.out)
    factor = options.pool or (TokenStore(coarse).metadata["pool"] if coarse.exists() else None)
    if factor:
        shutil.rmtree(coarse, ignore_errors=True)
        with progress_bar("pooling", "text") as progress:
            pool(store, coarse, factor, progress=progress)
        print(f"{coarse}: a token in {factor}")
    found = store.inspect()
    print(
        f"{options.out}: {len(documents)} documents, {found['tokens']} tokens, {found['bytes'] / 1e6:.1f} MB "
        f"({found['bytes_per_token']:.0f} bytes a token)"
    )


if __name__ == "__main__":
    from ..cli import run_command

    run_command(main)
