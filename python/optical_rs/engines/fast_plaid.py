"""fast-plaid: PLAID [1]_ in Rust and torch, in a folder.

Its wheels ask for one version of torch, so that it may need an environment of its own (``pip install optical_rs
fast-plaid``). It keeps tokens compressed, from which no store can be read back; its scores are approximate. As a first
stage (:func:`~optical_rs.engines.first_stage`), its candidates are scored exactly.

References
----------
.. [1] K. Santhanam et al. PLAID: an efficient engine for late interaction retrieval. CIKM 2022.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..edge.encoder import Encoder
from ..edge.fields import Fields, Values
from ..errors import InputError, require
from ..files import named
from ..similarity import TokenStore, columns
from .common import About, Found, batches, best_documents, count, making_folder

_NONE = np.zeros((0, 1), np.float32)


def write(
    store: TokenStore,
    target: str | os.PathLike[str],
    *,
    nbits: int = 4,
    n_samples_kmeans: int | None = None,
    seed: int = 42,
    device: str = "cpu",
) -> None:
    """Write a store's texts into a new index.

    fast-plaid learns its cells from the tokens and takes all of them at once: they are held in memory, in float16, which
    is what it computes with.

    Parameters
    ----------
    store : TokenStore
    target : path
        A new folder.
    nbits, n_samples_kmeans, seed
        Of fast-plaid: bits of a number's residual, how many texts its cells are learnt from, and the seed of its
        clustering. It makes no more cells than these texts have tokens: with fewer texts it writes faster, into fewer and
        larger cells.
    device : str
        ``"cpu"`` or ``"cuda:0"``.

    Raises
    ------
    InputError
        fast-plaid is not installed, the folder exists or another process makes it, or the store has no tokens. Nothing is
        left of the index.
    """
    library, torch = _libraries()
    target = named(target, "target")
    if os.path.lexists(target):
        raise InputError(f"target: {target} exists already; fast-plaid's index is made in a new folder")
    about = About.of(store)
    with making_folder(target) as folder:
        tokens = []
        # Texts and fields are kept beside the index, whose texts are numbered.
        beside = TokenStore.create(folder / "texts", 1, {"optical_rs": about.text()})
        fields = Fields(beside.path)
        for part in batches(store):
            part = [row for row in part if len(row[1])]
            tokens += [torch.from_numpy(np.array(own, np.float16)) for _, own, _, _ in part]
            fields.write((about.document(name), own) for name, _, _, own in part)
            beside.append([_NONE] * len(part), [row[0] for row in part], [row[2] for row in part])
        if not tokens:
            raise InputError(f"store: {store.path} has no tokens")
        library.FastPlaid(index=str(folder / "index"), device=device).create(
            tokens, nbits=nbits, n_samples_kmeans=n_samples_kmeans, seed=seed
        )


@dataclasses.dataclass(frozen=True)
class Opened:
    """An index that stays open between searches, of :func:`opened`."""

    engine: Any
    texts: TokenStore
    fields: Fields
    about: About

    @functools.cached_property
    def values(self) -> Values:
        """The fields of all texts, for filters; read on first use."""
        documents = map(self.about.document, self.texts.ids)
        return Values(len(self.texts), enumerate(map(self.fields.of, documents)))


def opened(target: str | os.PathLike[str], *, device: str = "cpu") -> Opened:
    """Open what :func:`write` made.

    Parameters
    ----------
    target : path
    device : str
        ``"cpu"`` or ``"cuda:0"``.

    Raises
    ------
    InputError
        fast-plaid is not installed, or no such index.
    """
    library, _ = _libraries()
    target = Path(target)
    if not columns.holds_store(target / "texts") or not (target / "index").is_dir():
        raise InputError(f"target: no index of fast-plaid at {target}")
    texts = TokenStore(target / "texts")
    about = About.read(texts.metadata.get("optical_rs"), target)
    return Opened(
        library.FastPlaid(index=str(target / "index"), device=device), texts, Fields(texts.path), about
    )


def search(
    target: str | os.PathLike[str] | Opened,
    queries: Sequence[Any],
    k: int = 10,
    *,
    filters: Mapping[str, Any] | None = None,
    encoder: Encoder | None = None,
    n_ivf_probe: int = 8,
    n_full_scores: int = 4096,
) -> list[list[Found]]:
    """The ``k`` best documents of each query.

    Parameters
    ----------
    target : path or Opened
        What :func:`write` made, opened for this call, or what :func:`opened` returned.
    queries : sequence of (tokens, dim) arrays, or of str with an encoder
    k : int
    filters : dict, optional
        As for :meth:`optical_rs.Index.search <optical_rs.edge.search.Index.search>`.
    encoder : Encoder, optional
        The exported model that encodes queries.
    n_ivf_probe, n_full_scores : int
        Of fast-plaid: cells that are looked into for each token of a query, and candidates that it scores.

    Returns
    -------
    list of lists of Found
        Best first; none for a query without tokens.

    Raises
    ------
    InputError
        fast-plaid is not installed, no such index, filters by unknown fields or of another kind, queries of another
        dimension, or an encoder with another teacher.
    """
    index = target if isinstance(target, Opened) else opened(target)
    torch, texts, about, fields = require("torch", "train"), index.texts, index.about, index.fields
    tokens, k = about.queries(queries, encoder), count("k", k)
    subset = None
    if filters is not None:
        subset = np.flatnonzero(index.values.select(filters)).tolist()

    def found(query: np.ndarray) -> list[Found]:
        def fetch(pieces: int) -> list[tuple[str, float, str, Mapping[str, Any]]]:
            hits = index.engine.search(
                torch.from_numpy(query.copy())[None],  # one at a time: padding of a batch would be asked for
                top_k=min(pieces, len(texts)),
                n_ivf_probe=n_ivf_probe,
                n_full_scores=max(n_full_scores, pieces),
                subset=subset,
            )[0]
            names = [(texts.ids[i], float(score), texts.contents[i]) for i, score in hits]
            return [(*row, fields.of(about.document(row[0]))) for row in names]

        return best_documents(fetch, k, about)

    return [found(query) if len(query) and subset != [] else [] for query in tokens]


def _libraries() -> tuple[Any, Any]:
    return require("fast_plaid.search"), require("torch", "train")
