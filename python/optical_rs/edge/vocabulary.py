"""A tokenizer with the pieces that some texts need, which cuts those texts as the whole one does."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from ..errors import InputError


def trim(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tokenizer, list[int]]:
    """Keep what cuts ``texts`` into tokens, all single characters, and special tokens.

    A unigram model takes the segmentation of the highest score, WordPiece the longest piece first: as long
    as the pieces of a text's segmentation are kept, leaving others out cannot change it. Other texts are
    cut into smaller pieces, down to characters.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Of the kind unigram or WordPiece.
    texts : iterable of str
        As they are encoded, with prompts.

    Returns
    -------
    (Tokenizer, list of int)
        The smaller one, and the old id of each new one.

    Raises
    ------
    InputError
        Another kind of tokenizer.
    """
    whole = json.loads(tokenizer.to_str())
    model = whole["model"]
    if model["type"] not in ("Unigram", "WordPiece"):
        raise InputError(
            f"vocabulary: expected a tokenizer of the kind Unigram or WordPiece, got {model['type']}"
        )
    unigram = model["type"] == "Unigram"
    vocabulary = (
        {piece: i for i, (piece, _) in enumerate(model["vocab"])} if unigram else dict(model["vocab"])
    )
    mark = "▁" if unigram else model.get("continuing_subword_prefix", "##")
    kept = {i for piece, i in vocabulary.items() if len(piece.removeprefix(mark)) <= 1}
    kept |= {token["id"] for token in whole["added_tokens"]}
    if unigram and model.get("unk_id") is not None:
        kept.add(model["unk_id"])
    if not unigram:
        kept.add(vocabulary[model["unk_token"]])
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 1024:
            kept.update(i for encoding in plain.encode_batch(batch) for i in encoding.ids)
            batch = []
    kept.update(i for encoding in plain.encode_batch(batch) for i in encoding.ids)
    old = sorted(kept)
    return Tokenizer.from_str(json.dumps(_renumbered(whole, old, unigram))), old


def _renumbered(whole: dict[str, Any], old: list[int], unigram: bool) -> dict[str, Any]:
    new = {o: n for n, o in enumerate(old)}
    model = whole["model"]
    if unigram:
        model["vocab"] = [model["vocab"][o] for o in old if o < len(model["vocab"])]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    for token in whole["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber_ids(whole.get("post_processor"), new)
    if whole.get("padding"):
        whole["padding"]["pad_id"] = new.get(whole["padding"]["pad_id"], 0)
    return whole


def _renumber_ids(part: Any, new: dict[int, int]) -> None:
    """The ids that a post-processor adds: of templates (``ids``) and of pairs like ``["[SEP]", 102]``."""
    if isinstance(part, list):
        for item in part:
            _renumber_ids(item, new)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "ids":
                part[key] = [new[i] for i in value]
            elif key in ("sep", "cls") and isinstance(value, list):
                part[key] = [value[0], new[value[1]]]
            else:
                _renumber_ids(value, new)


def token_cost(trimmed: Tokenizer, whole: Tokenizer, texts: Sequence[str]) -> tuple[float, float]:
    """What a trimmed vocabulary costs on texts.

    Returns
    -------
    (float, float)
        The share of texts that it cuts into more tokens than the whole one, and how many times the tokens of the
        whole one all of them take.
    """
    sizes = [
        [
            sum(len(part.ids) for part in (found, *found.overflowing))  # also where it truncates
            for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]
        for tokenizer in (trimmed, whole)
    ]
    more = sum(a > b for a, b in zip(*sizes, strict=True))
    return more / max(len(texts), 1), sum(sizes[0]) / max(sum(sizes[1]), 1)
