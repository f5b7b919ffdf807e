"""``index``: documents as a store of tokens, ready to be searched."""

import contextlib
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, texts_only
from ..files import Texts, beside, named
from ..similarity import TokenStore, columns, make_coarse
from ..similarity.coarse import Method, follows, method_of
from .encoder import COSTLY, Encoder
from .fields import Fields, as_json, fields_of
from .shards import Encode, encode_here

#: Documents that are encoded and committed together: their new texts are a shard.
BATCH = 256
#: Tokens of a store from which on ``optical-rs index`` makes a first stage without being asked: exhaustive search takes
#: a tenth of a second there on two threads (``bench/first_stage.py``, ``bench/index.py``).
LARGE = 8_000_000
#: Texts whose tokens are counted to see what a trimmed vocabulary costs.
_SAMPLE = 100


def index(
    encoder: Encoder,
    documents: Mapping[str, str] | Iterable[tuple],
    out: str | Path,
    *,
    dtype: str | None = None,
    window: int | None = None,
    overlap: int = 0,
    encode: Encode = encode_here,
    progress: Callable[[int, int, int], None] | None = None,
) -> TokenStore:
    """Encode documents into a store, or add those that a store does not have yet and replace those that changed.

    A store is committed every 256 documents, and what is committed stays: after an interruption, also after a kill, the
    same call goes on from there, and the store has the same bytes in the end as without it. A document that is replaced is
    its old text or its new one at every moment. Fields are committed before texts: a kill between the two leaves up to 256
    documents with their new fields and their old texts, or none yet, until the same call is made again. Documents that are not
    given stay as they are.

    Parameters
    ----------
    encoder : Encoder
    documents : dict of str to str, or iterable of (str, str) or (str, str, dict)
        Id → text, or id, text and fields that :class:`~optical_rs.edge.search.Index` filters by: texts, numbers, true or
        false, and lists of them. Of an iterable, such as :func:`~optical_rs.data.stream_documents`, no more than 256
        texts are held at a time.
    out : path
        A new directory, or a store that was made with the same model and windows. Fields are beside it, in
        ``out.fields``.
    dtype : {"float32", "float16", "bfloat16", "int8"}, optional
        How tokens are kept; by default those of a new store as int8.
    window, overlap : int, optional
        Cut documents into overlapping pieces of so many tokens; a document's score is that of its best
        piece. By default each document is one text, and what is beyond the model's length is left out.
    encode : callable
        Who encodes: this machine, or those of a cluster with :func:`~optical_rs.edge.cluster.on_ray`. The store has the
        same bytes.
    progress : callable, optional
        Called with the numbers of documents done, of all documents (0 if that is not known), and of tokens that this call
        has encoded.

    Returns
    -------
    TokenStore

    Raises
    ------
    InputError
        A store of another model (by content: a model that was moved is the same), dtype or windows, an overlap
        without windows, something that is no document, an id that is repeated, or fields of another kind.

    Warns
    -----
    UserWarning
        If documents take many more tokens than with the vocabulary that the model had before it was trimmed, or a
        store of an older version does not say which model made it.
    """
    out = named(out, "out")
    if not isinstance(encoder, Encoder):
        raise InputError(f"encoder: expected an Encoder, got {encoder!r:.100}")
    if window is not None:
        encoder.windows("", window, overlap)  # a size that cannot be is refused before anything is made
    elif overlap:
        raise InputError(f"overlap: is of documents that are cut by window, got {overlap} without it")
    # What is no document is refused before anything is made, too.
    batches = _batches(documents)
    first = list(itertools.islice(batches, 1))
    made_with = {"encoder": encoder.content, "window": window, "overlap": overlap}
    if columns.holds_store(out):
        store = TokenStore(out)
        _expect_same(
            store, {**made_with, "dimension": encoder.dim, "dtype": dtype or store.dtype}, encoder.name
        )
    else:
        # Relative: a model and an index that are moved together still find each other.
        try:
            place = Path(os.path.relpath(encoder.path, out.parent)).as_posix()
        except ValueError:  # on another drive of Windows
            place = Path(encoder.path).absolute().as_posix()
        metadata = {"model": encoder.name, "model_path": place, **encoder.identity, **made_with}
        # The fields of an index that was removed are of no document here.
        if columns.holds_store(fields_of(out)):
            columns.remove(fields_of(out))
        store = TokenStore.create(out, encoder.dim, metadata, dtype=dtype or "int8")
    total = len(documents) if isinstance(documents, Sized) else 0
    with store.writing():
        fields = Fields(out)
        known = pieces_of(store)
        seen: set[str] = set()
        # Batches whose shard is being encoded: where others encode, several are.
        waiting: deque[tuple[dict[str, tuple[str, Mapping[str, Any]]], dict[str, list[str]]]] = deque()

        def shards() -> Iterator[list[str]]:
            measured = False
            for batch in itertools.chain(first, batches):
                if twice := seen & batch.keys():
                    raise InputError(f"documents: id '{min(twice)}' is repeated")
                seen.update(batch)
                new = {}
                for name, (text, _) in batch.items():
                    pieces = [text] if window is None else encoder.windows(text, window, overlap)
                    if [store.contents[i] for i in known.get(name, ())] != pieces:
                        new[name] = pieces
                texts = [piece for pieces in new.values() for piece in pieces]
                if texts and not measured:
                    _warn_of_cost(encoder, texts[:: -(-len(texts) // _SAMPLE)])
                    measured = True
                waiting.append((batch, new))
                yield texts

        done, tokens = 0, 0
        with contextlib.closing(encode(encoder, shards(), store.dtype)) as encoded:
            for shard in encoded:
                batch, new = waiting.popleft()
                fields.write((name, said) for name, (_, said) in batch.items())
                if new:
                    old = [store.ids[i] for name in new for i in known.get(name, ())]
                    ids = [
                        name if window is None else f"{name}#{i}"
                        for name in new
                        for i in range(len(new[name]))
                    ]
                    said = [piece for pieces in new.values() for piece in pieces]
                    store.append_columns(shard, ids, said, replacing=old)
                    tokens += int(np.frombuffer(shard["lengths"], "<i8").sum())
                done += len(batch)
                if progress:
                    progress(done, total, tokens)
    return store


def _batches(documents: Any) -> Iterator[dict[str, tuple[str, Mapping[str, Any]]]]:
    """Some documents at a time, with their fields."""
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise InputError(
            f"documents: expected a dict of id to text, or an iterable of (id, text), got {documents!r:.100}"
        )
    if isinstance(documents, Mapping):
        rows: Any = documents.items()
    else:
        rows = documents.with_fields() if isinstance(documents, Texts) else documents
    rows = map(_document, iter(rows))
    while part := list(itertools.islice(rows, BATCH)):
        batch = {name: (text, fields) for name, text, fields in part}
        if len(batch) < len(part):
            names = [row[0] for row in part]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise InputError(f"documents: id '{twice}' is repeated")
        yield batch


def _document(row: Any) -> tuple[str, str, Mapping[str, Any]]:
    """A document's id, text and fields, if it has these."""
    match row:
        case (str() as name, str() as text):
            fields: Mapping[str, Any] = {}
        case (str() as name, str() as text, Mapping() as fields):
            pass
        case _:
            raise InputError(f"documents: expected (id, text) or (id, text, fields), got {str(row)[:100]}")
    texts_only(f"documents: {name!r}", [name, text])
    if not name:
        raise InputError("documents: expected an id, got ''")
    as_json(name, fields)
    return name, text, fields


def pieces_of(store: TokenStore) -> dict[str, list[int]]:
    """The numbers of each document's texts, but for deleted ones."""
    found: dict[str, list[int]] = {}
    for i in np.flatnonzero(~store.deleted).tolist():
        found.setdefault(document_of(store, i), []).append(i)
    return found


def encoder_of(path: str | Path) -> str | None:
    """The :attr:`~optical_rs.edge.Encoder.content` of the model that made an index; None if there is none yet."""
    return TokenStore(path).metadata.get("encoder") if columns.holds_store(Path(path)) else None


def _expect_same(store: TokenStore, made_with: dict[str, object], model: str) -> None:
    found = {key: store.metadata.get(key) for key in made_with}
    found |= {"dimension": store.dim, "dtype": store.dtype}
    if made_with["window"] is None and found["window"] is None:
        # Earlier versions took an overlap without windows, and had no use for it.
        found["overlap"] = made_with["overlap"]
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
    """Where the first stage of an index is, if it has one."""
    return beside(path, ".coarse")


def _expect_coarse(path: Path) -> TokenStore | None:
    """The coarse store at a path, if there is one; nothing else may be there but what a killed call left of one."""
    if not os.path.lexists(path):
        return None
    foreign = path.is_symlink() or not path.is_dir() or set(path.iterdir()) - set(columns.own(path))
    if not foreign and not columns.holds_store(path):
        return None
    found = None if foreign else TokenStore(path)
    if found is None or not {"coarse", "pool"} & found.metadata.keys():
        raise InputError(f"first_stage: {path} is no coarse store, and is left alone; move it away")
    return found


def first_stage_of(path: str | Path) -> TokenStore | None:
    """The first stage of an index, or what a killed call has made of one; nothing else may be in its place.

    Raises
    ------
    InputError
    """
    coarse = coarse_of(path)
    whole, begun = _expect_coarse(coarse), _expect_coarse(beside(coarse, ".new"))
    return begun if whole is None else whole


def update_first_stage(
    store: TokenStore, method: Method | None, progress: Callable[[int, int], None] | None = None
) -> TokenStore:
    """Bring the first stage of an index up to date: made anew if it was made in another way or of other texts.

    Nobody else writes to the index meanwhile. What a killed call has made is gone on with.

    Parameters
    ----------
    store : TokenStore
    method : Mean, Pooling or Muvera
        By default the one that the first stage was made by.
    progress
        As for :func:`~optical_rs.similarity.make_coarse`.

    Raises
    ------
    InputError
        If there is anything else in the first stage's place, or in it, or another process writes to the index.
    """
    path = coarse_of(store.path)
    new = beside(path, ".new")  # where it is until it is whole
    with store.writing():
        old, begun = _expect_coarse(path), _expect_coarse(new)
        method = method or _made_by(begun if old is None else old)
        if method is None:
            raise InputError(f"first_stage: {path} is of an older version; name a method to make it again")
        try:
            if old is not None and _made_by(old) == method and follows(old, store):
                _remove(new)
                return make_coarse(store, path, method, dtype=old.dtype, progress=progress)
            if begun is None or _made_by(begun) != method or not follows(begun, store):
                _remove(new)
            make_coarse(store, new, method, progress=progress)
            _remove(path)
            new.rename(path)
        except OSError as error:
            raise InputError(f"first_stage: {path} cannot be replaced ({error.strerror or error})") from None
    return TokenStore(path)


def _made_by(coarse: TokenStore | None) -> Method | None:
    return method_of(coarse) if coarse is not None and "coarse" in coarse.metadata else None


def _remove(coarse: Path) -> None:
    if os.path.lexists(coarse):
        columns.remove(coarse)


def remove_first_stage(store: TokenStore) -> None:
    """Remove the first stage of an index, if it has one.

    Raises
    ------
    InputError
        As for :func:`update_first_stage`.
    """
    path = coarse_of(store.path)
    with store.writing():
        for place in (path, beside(path, ".new")):
            _expect_coarse(place)
            _remove(place)


def document_of(store: TokenStore, number: int) -> str:
    """The document that a text of a store belongs to."""
    name = store.ids[number]
    return name if store.metadata.get("window") is None else name.rpartition("#")[0]
