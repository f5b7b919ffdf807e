"""What learned retrieval is compared with, and combined with."""

from .lexical import bm25

__all__ = ["bm25"]
