"""What late interaction is compared with: words in common, and translation."""

from .alignment import TranslationTable, psq, translation_table
from .lexical import bm25
from .translation import Translator, translate_words

__all__ = ["TranslationTable", "Translator", "bm25", "psq", "translate_words", "translation_table"]
