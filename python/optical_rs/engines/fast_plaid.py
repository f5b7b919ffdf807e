"""Engines for collections that exhaustive search is too slow for."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, require
from ..similarity.maxsim import FirstStage
from ..similarity.store import TokenStore


def fast_plaid(
    store: TokenStore,
    path: str | os.PathLike,
    *,
    nbits: int = 4,
    n_ivf_probe: int = 8,
    n_full_scores: int = 4096,
    seed: int = 42,
    device: str = "cpu",
) -> FirstStage:
    """An index of fast-plaid (PLAID [1]_ in Rust and torch) over a store, as a first stage of search.

    The index is made on the first call and found again by later ones; ``search(queries, store, k,
    coarse=fast_plaid(store, path))`` then scores its candidates exactly. fast-plaid's wheels ask for one
    version of torch, so it may need an environment of its own (``pip install optical_rs fast-plaid``).
    docs/how-to/edge.md says what was measured, and from what size it might pay.

    Parameters
    ----------
    store : TokenStore
    path : path
        Where the index is, or is made.
    nbits, n_ivf_probe, n_full_scores, seed
        Of fast-plaid: bits of residuals, cells that are looked into for each query token, candidates that
        it scores, and the seed of its clustering.
    device : str
        ``"cpu"`` or ``"cuda:0"``.

    Returns
    -------
    callable
        For ``coarse``.

    Raises
    ------
    InputError
        fast-plaid is not installed, or the index lacks texts of the store.

    References
    ----------
    .. [1] K. Santhanam et al. PLAID: an efficient engine for late interaction retrieval. CIKM 2022.
    """
    library: Any = require("fast_plaid.search")
    torch = require("torch", "train")
    path = Path(path)
    numbers = np.flatnonzero(~store.deleted).tolist()
    listed = path / "ids.json"
    engine = library.FastPlaid(index=str(path / "index"), device=device)
    live = {store.ids[i] for i in numbers}
    if listed.exists():
        names = json.loads(listed.read_text(encoding="utf-8"))
        if missing := live - set(names):
            raise InputError(
                f"path: {path} lacks texts of the store, such as '{min(missing)}'; make it again"
            )
    else:
        names = [store.ids[i] for i in numbers]
        path.mkdir(parents=True, exist_ok=True)
        engine.create([torch.from_numpy(np.array(store[i])) for i in numbers], nbits=nbits, seed=seed)
        listed.write_text(json.dumps(names), encoding="utf-8")

    def first_stage(queries: Sequence[np.ndarray], candidates: int) -> list[list[tuple[str, float]]]:
        found = []
        for query in queries:
            # One at a time: its batches are padded, and padding would be asked for.
            hits = engine.search(
                torch.from_numpy(np.array(query, dtype=np.float32))[None],
                top_k=min(candidates, len(names)),
                n_ivf_probe=n_ivf_probe,
                n_full_scores=max(n_full_scores, candidates),
            )[0]
            found.append([(names[i], float(score)) for i, score in hits])
        return found

    return first_stage
