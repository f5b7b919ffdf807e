"""Bitext, retrieval collections and question–passage pairs, from files and from published sources.

Each loader takes one string, or a path: files of the user's, or a source such as ``afriqa:hau``
(:data:`optical_rs.data.sources.SOURCES` declares them all, docs/reference/sources.md has their table).
"""

from .bitext import Bitext, load_bitext
from .collection import Collection, load_collection, splits_of, stream_documents
from .pairs import QuestionPassages, load_pairs
from .sources import verify
from .split import hold_out, without

__all__ = [
    "Bitext",
    "Collection",
    "QuestionPassages",
    "hold_out",
    "load_bitext",
    "load_collection",
    "load_pairs",
    "splits_of",
    "stream_documents",
    "verify",
    "without",
]
