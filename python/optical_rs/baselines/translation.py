"""Translated queries: by any Hugging Face sequence-to-sequence model, or word by word."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, closest, require
from .word_alignment import TranslationTable, words


def translate_words(texts: Sequence[str], table: TranslationTable) -> list[str]:
    """Each word's most probable translation; words that the table lacks stay as they are.

    Examples
    --------
    >>> from optical_rs.baselines import TranslationTable, translate_words
    >>> translate_words(["Moto 3"], TranslationTable({"moto": {"fire": 0.9, "hot": 0.1}}, {}))
    ['fire 3']
    """
    best = {word: max(found, key=lambda e: found[e]) for word, found in table.foreign.items()}
    return [" ".join(best.get(word, word) for word in words(text)) for text in texts]


class Translator:
    """A sequence-to-sequence model of Hugging Face, such as ``facebook/m2m100_418M``, with a cache.

    Parameters
    ----------
    model : str
        Hub id or folder: M2M100, NLLB, mBART or T5-like models that need no language codes.
    source, target : str
        Languages. Of a model with language codes, those that it knows: ``"sw"``, or ``"swh_Latn"`` for
        NLLB; an unambiguous beginning will do.
    num_beams, batch_size, max_new_tokens : int
        Of the search.
    cache : path, optional
        A file of JSON lines that translations are appended to, and not made again.
    device : str, optional
        As in torch.

    Raises
    ------
    InputError
        A model that cannot be had, or a language that it does not know, with the nearest that it knows.
    """

    def __init__(
        self,
        model: str,
        source: str,
        target: str = "en",
        *,
        num_beams: int = 5,
        batch_size: int = 16,
        max_new_tokens: int = 128,
        cache: str | Path | None = None,
        device: str | None = None,
    ):
        transformers = require("transformers", "train")
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            config = transformers.AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"translator: cannot load '{model}': {reason}") from None
        self.name = model
        self.codes = language_codes(self.tokenizer)
        self.source = _language("source", source, self.codes, model)
        self.target = _language("target", target, self.codes, model)
        self.options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        self.batch_size, self.device = batch_size, device
        self._config = config
        self._model: Any = None
        self.cache = None if cache is None else Path(cache)
        self.known: dict[str, str] = {}
        if self.cache is not None and self.cache.exists():
            for line in self.cache.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off when a run was killed: made again
                if row["key"] == self._key():
                    self.known[row["text"]] = row["translation"]

    def _key(self) -> list[Any]:
        return [self.name, self.source, self.target, *self.options.values()]

    def __call__(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Translations of texts, in their order; ``progress`` is called with those done and all."""
        wanted = sorted({text for text in texts if text not in self.known}, key=lambda t: (len(t), t))
        for first in range(0, len(wanted), self.batch_size):
            batch = wanted[first : first + self.batch_size]
            made = self._translate(batch)
            self.known.update(zip(batch, made, strict=True))
            if self.cache is not None:
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                with self.cache.open("a", encoding="utf-8") as file:
                    for text, translation in zip(batch, made, strict=True):
                        row = {"key": self._key(), "text": text, "translation": translation}
                        # In ASCII, so that no character of a text can end a line.
                        file.write(json.dumps(row) + "\n")
            if progress:
                progress(min(first + self.batch_size, len(wanted)), len(wanted))
        return [self.known[text] for text in texts]

    def _translate(self, texts: list[str]) -> list[str]:
        import torch
        import transformers

        if self._model is None:
            self._model = transformers.AutoModelForSeq2SeqLM.from_pretrained(self.name, config=self._config)
            self._model = self._model.eval().to(self.device or "cpu")
        options: dict[str, Any] = dict(self.options)
        if self.codes:
            self.tokenizer.src_lang = self.source
            options["forced_bos_token_id"] = self.codes[self.target]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            ids = self._model.generate(**inputs.to(self._model.device), **options)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def language_codes(tokenizer: Any) -> dict[str, int]:
    """The languages that a multilingual translation tokenizer knows, and the token of each; empty for
    tokenizers without such."""
    lookup = getattr(tokenizer, "lang_code_to_id", None)
    if lookup:
        return {str(code): int(token) for code, token in lookup.items()}
    tokens = getattr(tokenizer, "lang_code_to_token", None)
    if tokens:
        return {code: tokenizer.convert_tokens_to_ids(token) for code, token in tokens.items()}
    # NLLB and mBART keep their languages among the special tokens: "swh_Latn", "en_XX".
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    found = [t for t in special if "_" in t and t.replace("_", "").isalpha() and not t.startswith("<")]
    return {token: tokenizer.convert_tokens_to_ids(token) for token in found}


def _language(argument: str, language: str, codes: dict[str, int], model: str) -> str:
    if not codes or language in codes:
        return language
    base = language.split("_")[0].split("-")[0]
    matches = [code for code in codes if code.split("_")[0] == base]
    if len(matches) == 1:
        return matches[0]
    hint = f"; expected one of: {', '.join(matches)}" if matches else closest(language, codes)
    raise InputError(f"{argument}: the translation model '{model}' does not know '{language}'{hint}")
