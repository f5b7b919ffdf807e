"""What late interaction is compared with: words in common, and translation."""

from .bm25 import BM25, bm25
from .translation import Translator, translate_words
from .word_alignment import TranslationTable, psq, translation_table

__all__ = ["BM25", "TranslationTable", "Translator", "bm25", "psq", "translate_words", "translation_table"]
