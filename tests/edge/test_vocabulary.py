"""A trimmed tokenizer cuts covered text as the whole one does."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.edge.vocabulary import trim

WORDS = [
    "moto",
    "madzi",
    "mwana",
    "akuwerenga",
    "buku",
    "dzuwa",
    "likuwala",
    "the",
    "child",
    "reads",
    "é",
    "日本",
]


def unigram():
    scores = {piece: -float(len(WORDS)) for piece in ("▁", *sorted({c for w in WORDS for c in w}))}
    scores |= (
        {f"▁{w}": -2.0 for w in WORDS[:6]}
        | {w[:3]: -3.0 for w in WORDS}
        | {w[2:]: -3.5 for w in WORDS if w[2:]}
    )
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores.items()]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


def wordpiece():
    pieces = ["[UNK]", "[CLS]", "[SEP]", *sorted({c for w in WORDS for c in w})]
    pieces += [f"##{c}" for c in sorted({c for w in WORDS for c in w})]
    pieces += [*(w for w in WORDS[:6]), *(f"##{w[2:]}" for w in WORDS if w[2:]), *{w[:2] for w in WORDS}]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


@pytest.mark.parametrize("make", [unigram, wordpiece])
@given(data=st.data())
def test_covered_text_keeps_its_tokens(make, data):
    whole = make()
    texts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), max_size=4))
    small, old = trim(whole, texts)
    assert small.get_vocab_size() == len(old) <= whole.get_vocab_size()
    for text in texts:
        before, after = whole.encode(text), small.encode(text)
        assert after.tokens == before.tokens
        assert [old[i] for i in after.ids] == before.ids
    # What is not covered is cut into what is there, and no special token is taken for another.
    after = small.encode("akuwerenga dzuwa 日本 zzz")
    assert next(old[i] for i in after.ids) == whole.encode("x").ids[0]
    assert all(0 <= i < len(old) for i in after.ids)


def test_pieces_are_left_out():
    whole = unigram()
    small, old = trim(whole, ["moto"])
    assert "▁akuwerenga" in whole.get_vocab()
    assert "▁akuwerenga" not in small.get_vocab()
    assert "▁moto" in small.get_vocab()
    assert small.padding["pad_id"] == old.index(1)


def test_other_kinds_are_refused():
    with pytest.raises(InputError, match="expected a tokenizer of the kind Unigram or WordPiece, got BPE"):
        trim(tokenizers.Tokenizer(tokenizers.models.BPE()), [])
