"""Bitext, retrieval collections, and batches of them.

``load_bitext`` and ``load_collection`` take one string that names either files of the user's or a
built-in set that an installed package carries (``kolibri:<language>``, ``bible:ny``).
"""

from .bitext import Bitext, load_bitext
from .collection import Collection, load_collection, stream_documents

__all__ = ["Bitext", "Collection", "load_bitext", "load_collection", "stream_documents"]
