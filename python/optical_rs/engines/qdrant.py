"""Qdrant, embedded (extra ``qdrant``: qdrant-edge-py) or as a server (qdrant-client): multivectors compared by MaxSim.

A target is one of

- a folder: an Edge shard, which needs no server;
- ``"http://host:6333/collection"``: a collection of a server;
- an opened ``qdrant_edge.EdgeShard``, or ``(QdrantClient(...), "collection")``, for keys, gRPC and other options. Between
  searches they stay open.

The engine compares all texts, exactly, unless a first stage was written with them: small vectors by which it finds
candidates, whose tokens it then compares.
"""

import contextlib
import datetime
import json
import os
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..edge.encoder import Encoder
from ..edge.fields import conditions, values_of
from ..errors import InputError, require
from ..files import named
from ..similarity import TokenStore
from ..similarity.coarse import METHODS, Method, settings_of
from .common import BATCH, About, Found, batches, best_documents, count, gone, making_folder, read_into

#: Names of vectors.
_TOKENS, _COARSE = "tokens", "coarse"
#: Ids of points are hashes of the texts' ids; the point that says what the others are has no vectors.
_SPACE = uuid.UUID("3b6f3f0e-6b0f-5d0c-9d52-0a3f3c1c8f11")
_ABOUT = str(uuid.uuid5(_SPACE, ""))


def write(
    store: TokenStore, target: Any, *, dtype: str = "float32", first_stage: Method | None = None
) -> None:
    """Write a store's texts, tokens and fields.

    Texts that the target has are replaced, those that the store has deleted are removed, others stay: several stores may
    be written to one target. At most 512 texts are held at a time.

    Parameters
    ----------
    store : TokenStore
    target
        A folder, URL or opened engine, see above; one that does not exist is made.
    dtype : {"float32", "float16"}
        How Qdrant keeps tokens.
    first_stage : Mean, Muvera or Pooling, optional
        What makes the small vectors that are searched first; those of :class:`~optical_rs.similarity.Mean` and
        :class:`~optical_rs.similarity.Muvera` are one a text, and get an HNSW index. A target that exists keeps its own.

    Raises
    ------
    InputError
        The package is not installed, the server does not answer, another process makes the folder, or the target is
        something else or of another model. A target that did not exist then does not exist; one that did has whole texts
        alone, and the same call goes on. A new collection whose server goes meanwhile may stay: it is recognised as one
        that was not written to its end, until it is deleted by hand.
    """
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype: expected float32 or float16, got {dtype!r}")
    options = {"dtype": dtype, "first_stage": first_stage and settings_of(first_stage)}
    about = About.of(store, **options)
    with _writing(target, about) as (engine, old):
        if old is not None:
            about = old.with_fields(about)
        method = _method(about)
        for part in batches(store):
            coarse = method.documents([tokens for _, tokens, _, _ in part]) if method else [None] * len(part)
            points = []
            for (name, tokens, text, fields), small in zip(part, coarse, strict=True):
                vectors = {_TOKENS: tokens} if len(tokens) else {}
                if small is not None and len(small):
                    vectors[_COARSE] = small
                points.append((_point(name), vectors, {"id": name, "text": text, **_payload(fields)}))
            engine.upsert(points)
        if old is not None:
            names = gone(store)
            for first in range(0, len(names), BATCH):
                engine.delete([_point(name) for name in names[first : first + BATCH]])
        engine.upsert([(_ABOUT, {}, {"optical_rs": about.text()})])
        engine.finish()


def search(
    target: Any,
    queries: Sequence[Any],
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
    candidates: int | None = None,
) -> list[list[Found]]:
    """The ``k`` best documents of each query.

    Parameters
    ----------
    target
        A folder, URL or opened engine, see above.
    queries : sequence of (tokens, dim) arrays, or of str with an encoder
    k : int
    filters : dict, optional
        As for :meth:`optical_rs.Index.search <optical_rs.edge.search.Index.search>`. Ranges of texts have to be of dates.
    encoder : Encoder, optional
        The exported model that encodes queries.
    candidates : int, optional
        Of the first stage, if the target has one; by default the larger of 20 k and 200.

    Returns
    -------
    list of lists of Found
        Best first; none for a query without tokens.

    Raises
    ------
    InputError
        No such target, a server that does not answer, filters by unknown fields or of another kind, queries of another
        dimension, or an encoder with another teacher.
    """
    with _reading(target) as (engine, about):
        tokens, k = about.queries(queries, encoder), count("k", k)
        chosen = None if filters is None else _filter(engine.models, conditions(filters, about.kinds))
        method = _method(about)
        asked = max(20 * k, 200) if candidates is None else count("candidates", candidates)

        def found(query: np.ndarray) -> list[Found]:
            small = method.queries([query])[0] if method else None

            def fetch(pieces: int) -> list[tuple[str, float, str, Mapping[str, Any]]]:
                rows = engine.query(query, small, max(asked, pieces), pieces, chosen)
                return [(p["id"], score, p["text"], p["fields"]) for p, score in rows]

            return best_documents(fetch, k, about)

        return [found(query) if len(query) else [] for query in tokens]


def read(target: Any, path: str | Path, *, dtype: str = "float32") -> TokenStore:
    """Read the texts back into a new store, with their fields beside it.

    Parameters
    ----------
    target
        A folder, URL or opened engine, see above.
    path : path
        A new directory.
    dtype
        As for :meth:`~optical_rs.similarity.TokenStore.create`.

    Raises
    ------
    InputError
        As for :func:`search` and :meth:`~optical_rs.similarity.TokenStore.create`. Nothing is then left of the store.
    """
    with _reading(target) as (engine, about):
        none = np.zeros((0, about.dim), np.float32)
        texts = (
            (p["id"], np.asarray(vectors[_TOKENS], np.float32) if vectors else none, p["text"], p["fields"])
            for p, vectors in engine.all()
            if "optical_rs" not in p
        )
        return read_into(path, about, texts, dtype, metadata=about.metadata)


def _point(name: str) -> str:
    return str(uuid.uuid5(_SPACE, name))


def _method(about: About) -> Method | None:
    settings = dict(about.options["first_stage"] or {})
    return METHODS[settings.pop("method")](**settings) if settings else None


def _payload(fields: Mapping[str, Any]) -> dict[str, Any]:
    # An Edge shard takes true for 1 in filters: it is asked for the names of what is true instead.
    flags = {
        str(flag).lower(): [
            name for name, value in fields.items() if any(v is flag for v in values_of(value))
        ]
        for flag in (True, False)
    }
    return {"fields": dict(fields), **{flag: names for flag, names in flags.items() if names}}


def _filter(models: Any, wanted: Mapping[str, Any]) -> Any:
    """Conditions as a filter of Qdrant."""
    must = []
    for name, condition in wanted.items():
        key = f'fields."{name}"'
        if '"' in name:
            raise InputError(f"filters: Qdrant cannot filter by {name!r}, whose name has a quotation mark")
        if isinstance(condition, dict):
            must.append(models.FieldCondition(key=key, range=_range(models, name, condition)))
            continue
        should = []
        if texts := [value for value in condition if isinstance(value, str)]:
            should.append(models.FieldCondition(key=key, match=models.MatchAny(any=texts)))
        for value in condition:
            if isinstance(value, bool):
                flag = str(value).lower()
                should.append(models.FieldCondition(key=flag, match=models.MatchAny(any=[name])))
            elif not isinstance(value, str):
                should.append(models.FieldCondition(key=key, range=models.Range(gte=value, lte=value)))
        # No value at all is satisfied by none.
        if not should:
            should.append(models.FieldCondition(key=key, match=models.MatchAny(any=[])))
        must.append(models.Filter(should=should))
    return models.Filter(must=must)


def _range(models: Any, name: str, bounds: Mapping[str, Any]) -> Any:
    if not any(isinstance(limit, str) for limit in bounds.values()):
        return models.Range(**bounds)
    for limit in bounds.values():
        if not _is_date(limit):
            raise InputError(
                f"filters: '{name}': Qdrant has ranges of numbers, or of dates such as \"2024-05-31\" and "
                f'"2024-05-31T09:30:00Z", got {limit!r}'
            )
    return models.DatetimeRange(**bounds)


#: RFC 3339, where the time and its zone may be missing: what all of Qdrant's ways take for the same date.
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ]([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?"
)


def _is_date(limit: Any) -> bool:
    if not isinstance(limit, str) or not _DATE.fullmatch(limit):
        return False
    try:
        datetime.datetime.fromisoformat(limit[:19])
    except ValueError:  # such as the 30th of February
        return False
    return True


# The two ways to Qdrant. Their models are the same but for some names.


class _EdgeModels:
    """Names of qdrant-client's models for those of qdrant-edge-py."""

    def __init__(self, library: Any):
        self.MatchAny, self.Filter = library.MatchAny, library.Filter
        self.Range, self.DatetimeRange = library.RangeFloat, library.RangeDateTime
        self.FieldCondition = library.FieldCondition


class _Edge:
    """An opened Edge shard."""

    def __init__(self, library: Any, shard: Any):
        self._library, self._shard = library, shard
        self.models: Any = _EdgeModels(library)

    def upsert(self, points: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]]) -> None:
        made = [self._library.Point(*point) for point in points]
        self._shard.update(self._library.UpdateOperation.upsert_points(made))

    def delete(self, points: list[str]) -> None:
        self._shard.update(
            self._library.UpdateOperation.delete_points([uuid.UUID(point) for point in points])
        )

    def finish(self) -> None:
        self._shard.optimize()
        self._shard.flush()

    def about(self) -> str | None:
        found = self._shard.retrieve([uuid.UUID(_ABOUT)], with_payload=True, with_vector=False)
        return (found[0].payload or {}).get("optical_rs") if found else None

    def query(
        self, tokens: np.ndarray, small: np.ndarray | None, candidates: int, limit: int, chosen: Any
    ) -> list[tuple[dict[str, Any], float]]:
        library = self._library
        first = small is not None and library.Prefetch(
            limit=candidates, query=library.Query.Nearest(small, using=_COARSE), filter=chosen
        )
        request = library.QueryRequest(
            limit=limit,
            query=library.Query.Nearest(tokens, using=_TOKENS),
            prefetches=[first] if first else None,
            filter=chosen,
            with_payload=True,
        )
        return [(point.payload, point.score) for point in self._shard.query(request)]

    def all(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        offset = None
        while True:
            request = self._library.ScrollRequest(
                offset=offset, limit=BATCH, with_payload=True, with_vector=[_TOKENS]
            )
            records, offset = self._shard.scroll(request)
            yield from ((record.payload, record.vector or {}) for record in records)
            if offset is None:
                return


#: A server takes requests of 32 MiB. Bytes of a request, and of a number in it (as JSON, with a comma), at most.
_REQUEST, _NUMBER = 30_000_000, 24


class _Client:
    """A collection of a server, or of qdrant-client's local mode."""

    def __init__(self, client: Any, name: str):
        self._client, self._name = client, name
        self.models = require("qdrant_client.models", "qdrant")

    def upsert(self, points: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]]) -> None:
        made = [
            self.models.PointStruct(id=i, vector={n: v.tolist() for n, v in vectors.items()}, payload=payload)
            for i, vectors, payload in points
        ]
        first, size = 0, 0
        for last, (_, vectors, payload) in enumerate(points):
            own = _NUMBER * sum(v.size for v in vectors.values()) + len(json.dumps(payload))
            if last > first and size + own > _REQUEST:
                self._client.upsert(self._name, made[first:last], wait=True)
                first, size = last, 0
            size += own
        if made:
            self._client.upsert(self._name, made[first:], wait=True)

    def delete(self, points: list[str]) -> None:
        self._client.delete(self._name, self.models.PointIdsList(points=points), wait=True)

    def finish(self) -> None:
        pass

    def about(self) -> str | None:
        found = self._client.retrieve(self._name, [_ABOUT], with_payload=True)
        return (found[0].payload or {}).get("optical_rs") if found else None

    def query(
        self, tokens: np.ndarray, small: np.ndarray | None, candidates: int, limit: int, chosen: Any
    ) -> list[tuple[dict[str, Any], float]]:
        first = small is not None and self.models.Prefetch(
            query=small.tolist(), using=_COARSE, limit=candidates, filter=chosen
        )
        found = self._client.query_points(
            self._name,
            query=tokens.tolist(),
            using=_TOKENS,
            limit=limit,
            prefetch=[first] if first else None,
            query_filter=chosen,
            with_payload=True,
        )
        return [(point.payload, point.score) for point in found.points]

    def all(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        offset = None
        while True:
            records, offset = self._client.scroll(
                self._name, limit=BATCH // 4, offset=offset, with_payload=True, with_vectors=[_TOKENS]
            )
            yield from ((record.payload, record.vector or {}) for record in records)
            if offset is None:
                return


_EXPECTED = "expected a folder, http://host:6333/collection, an EdgeShard or (QdrantClient, name)"


def _is_folder(target: Any) -> bool:
    return isinstance(target, str | os.PathLike) and "://" not in str(target)


def _is_url(base: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(base)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        return False


def _expect_scheme(target: Any) -> None:
    """Refuse a server's address that would be taken for a folder."""
    if not isinstance(target, str) or os.path.lexists(target.partition("/")[0]):
        return
    if re.match(r"[^/\\]+:[0-9]+(/|$)", target):
        raise InputError(f"target: {_EXPECTED}, got {target!r}; did you mean 'http://{target}'?")


def _is_shard(target: Any) -> bool:
    return type(target).__name__ == "EdgeShard"


@contextlib.contextmanager
def _reading(target: Any) -> Iterator[tuple[Any, About]]:
    _expect_scheme(target)
    with _errors(target):
        if _is_folder(target):
            library = require("qdrant_edge", "qdrant")
            if not (Path(target) / "edge_config.json").is_file():
                raise InputError(f"target: no Edge shard at {target}")
            shard = library.EdgeShard.load(str(target))
            try:
                engine: Any = _Edge(library, shard)
                yield engine, About.read(engine.about(), target)
            finally:
                shard.close()
        elif _is_shard(target):
            engine = _Edge(require("qdrant_edge", "qdrant"), target)
            yield engine, About.read(engine.about(), "the shard")
        else:
            client, name, close = _client(target)
            try:
                if not client.collection_exists(name):
                    raise InputError(f"target: there is no collection '{name}'")
                engine = _Client(client, name)
                yield engine, About.read(engine.about(), f"collection '{name}'")
            finally:
                close()


@contextlib.contextmanager
def _writing(target: Any, about: About) -> Iterator[tuple[Any, About | None]]:
    """The engine, and what it holds already; what is made here is removed if the block fails."""
    _expect_scheme(target)
    if (_is_folder(target) and (Path(target) / "edge_config.json").is_file()) or _is_shard(target):
        with _reading(target) as (engine, old):
            old.expect_same(about, target if _is_folder(target) else "the shard")
            yield engine, old
    elif _is_folder(target):
        library, path = require("qdrant_edge", "qdrant"), named(target, "target")
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"target: {path} is something else than an Edge shard, and is left alone")
        with _errors(target), _new_shard(library, path, about) as engine:
            yield engine, None
    else:
        with _errors(target):
            client, name, close = _client(target)
            try:
                if client.collection_exists(name):
                    engine = _Client(client, name)
                    old = About.read(engine.about(), f"collection '{name}'")
                    old.expect_same(about, f"collection '{name}'")
                    yield engine, old
                else:
                    yield from _new_collection(client, name, about)
            finally:
                close()


@contextlib.contextmanager
def _new_shard(library: Any, path: Path, about: About) -> Iterator[_Edge]:
    """A shard that is made beside its place, and is there once it is whole."""
    late = library.MultiVectorConfig(library.MultiVectorComparator.MaxSim)

    def vectors(dim: int, dtype: str, indexed: bool) -> Any:
        return library.EdgeVectorParams(
            size=dim,
            distance=library.Distance.Dot,
            multivector_config=late,
            datatype=getattr(library.VectorStorageDatatype, dtype.capitalize()),
            hnsw_config=None if indexed else library.HnswIndexConfig(0, 100, 10_000),
        )

    with making_folder(path) as folder:
        shard = library.EdgeShard.create(str(folder), library.EdgeConfig(vectors=_vectors(about, vectors)))
        try:
            yield _Edge(library, shard)
        finally:
            shard.close()


def _new_collection(client: Any, name: str, about: About) -> Iterator[tuple[_Client, None]]:
    models = require("qdrant_client.models", "qdrant")
    late = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)

    def vectors(dim: int, dtype: str, indexed: bool) -> Any:
        return models.VectorParams(
            size=dim,
            distance=models.Distance.DOT,
            multivector_config=late,
            datatype=models.Datatype(dtype),
            hnsw_config=None if indexed else models.HnswConfigDiff(m=0),
        )

    client.create_collection(name, vectors_config=_vectors(about, vectors))
    try:
        yield _Client(client, name), None
    except BaseException:
        # A server that went has the collection still; what is reported is why writing stopped.
        with contextlib.suppress(Exception):
            client.delete_collection(name)
        raise


def _vectors(about: About, vectors: Any) -> dict[str, Any]:
    """Settings of each vector; every text is compared by its tokens, so that they need no index."""
    found = {_TOKENS: vectors(about.dim, about.options["dtype"], False)}
    if method := _method(about):
        one = about.options["first_stage"]["method"] in ("mean", "muvera")
        found[_COARSE] = vectors(method.dimension(about.dim), about.options["dtype"], one)
    return found


def _client(target: Any) -> tuple[Any, str, Any]:
    """A client, the collection's name, and what closes the client if it was opened here."""
    library = require("qdrant_client", "qdrant")
    if isinstance(target, tuple) and len(target) == 2 and isinstance(target[1], str):
        return *target, lambda: None
    base, _, name = str(target).rstrip("/").rpartition("/")
    if not isinstance(target, str) or not _is_url(base):
        raise InputError(f"target: {_EXPECTED}, got {target!r}")
    # By itself it waits five seconds: less than an exhaustive search of some million texts takes.
    client = library.QdrantClient(url=base, timeout=60, check_compatibility=False)
    return client, name, client.close


@contextlib.contextmanager
def _errors(target: Any) -> Iterator[None]:
    """Qdrant's errors as InputError."""
    where = target if _is_folder(target) or isinstance(target, str) else "Qdrant"
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # An Edge shard raises plain exceptions.
        if type(error) is Exception or type(error).__module__.startswith(("qdrant_client", "grpc")):
            busy = "WouldBlock" in str(error)
            said = "it is open elsewhere" if busy else " ".join(str(error).split())
            raise InputError(f"target: {where} cannot be used ({said})") from error
        raise
