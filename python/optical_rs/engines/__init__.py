"""Vectors in existing engines: each module writes a store's texts into one, and searches there.

:mod:`~optical_rs.engines.qdrant`, :mod:`~optical_rs.engines.lancedb` and :mod:`~optical_rs.engines.fast_plaid` have the
same functions, ``write(store, target)`` and ``search(target, queries, k)``; the first two also ``read(target, path)``.
:mod:`~optical_rs.engines.recipes` has schemas of Vespa and of Postgres with VectorChord.
"""

from . import fast_plaid, lancedb, qdrant, recipes
from .common import Engine, Found, first_stage

__all__ = ["Engine", "Found", "fast_plaid", "first_stage", "lancedb", "qdrant", "recipes"]
