"""Word translation learnt from bitext, queries by it, and a real sequence-to-sequence model with real codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.baselines import TranslationTable, Translator, psq, translate_words, translation_table
from optical_rs.baselines.word_alignment import words

#: Chichewa-like and English words that always go together, in orders that differ.
WORDS = {
    "moto": "fire",
    "madzi": "water",
    "mwana": "child",
    "galu": "dog",
    "mvula": "rain",
    "nyumba": "house",
}


def made_bitext(count=300, seed=0):
    draw = np.random.default_rng(seed)
    foreign, english = [], []
    for _ in range(count):
        chosen = draw.choice(list(WORDS), size=3, replace=False).tolist()
        foreign.append(" ".join(chosen))
        english.append("the " + " ".join(WORDS[w] for w in reversed(chosen)))
    return foreign, english


@pytest.fixture(scope="module")
def table():
    pytest.importorskip("eflomal")
    return translation_table(*made_bitext())


def test_words_find_their_translation(table):
    for foreign, english in WORDS.items():
        assert max(table.foreign[foreign], key=table.foreign[foreign].get) == english
        assert max(table.english[english], key=table.english[english].get) == foreign
    for found in (*table.foreign.values(), *table.english.values()):
        assert sum(found.values()) == pytest.approx(1)
    assert translate_words(["Galu moto 7"], table) == ["dog fire 7"]


def test_psq_finds_what_was_asked(table):
    documents = {"a": "The child and the dog", "b": "rain, rain and rain", "c": "a house of water"}
    run = psq({"q1": "mwana galu", "q2": "mvula", "q3": "unknown"}, documents, table)
    assert run["q1"][0][0] == "a"
    assert run["q2"][0][0] == "b"
    assert run["q3"] == []


@given(st.integers(0, 2**31), st.floats(0.1, 1.0))
def test_psq_is_bm25_of_expected_counts(seed, cumulative):
    draw = np.random.default_rng(seed)
    english = [f"e{i}" for i in range(6)]
    shares = draw.dirichlet(np.ones(6), size=3)
    table = TranslationTable(
        {f"f{i}": dict(zip(english, row.tolist(), strict=True)) for i, row in enumerate(shares)}, {}
    )
    documents = {f"d{i}": " ".join(draw.choice(english, size=draw.integers(1, 9))) for i in range(7)}
    query = " ".join(draw.choice(["f0", "f1", "f2", "e0", "zz"], size=4))
    got = dict(psq({"q": query}, documents, table, cumulative=cumulative)["q"])
    mean = np.mean([len(d.split()) for d in documents.values()])
    for name, document in documents.items():
        score = 0.0
        for word in query.split():
            translations = sorted(table.foreign.get(word, {word: 1.0}).items(), key=lambda x: (-x[1], x[0]))
            kept, total = [], 0.0
            for e, p in translations:
                kept.append((e, p))
                total += p
                if total >= cumulative:
                    break
            tf = sum(p / total * document.split().count(e) for e, p in kept)
            df = sum(p / total * sum(e in d.split() for d in documents.values()) for e, p in kept)
            norm = 1.2 * (0.25 + 0.75 * len(document.split()) / mean)
            score += np.log(1 + (7 - df + 0.5) / (df + 0.5)) * tf / (tf + norm)
        assert got.get(name, 0.0) == pytest.approx(score)


def test_words_of_any_script():
    assert words("Ọjọ́ dára, L'été!") == ["ọjọ́", "dára", "l'été"]
    assert words("शाळा उद्या सुरू") == ["शाळा", "उद्या", "सुरू"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: translation_table(["a"], []), "english: expected 1 sentences"),
        (lambda: translation_table(["…"], ["a"]), "no pair has words on both sides"),
        (lambda: psq({}, {}, TranslationTable({}, {})), "documents: expected at least one"),
        (lambda: psq({}, {"a": "b"}, TranslationTable({}, {}), k=0), "k: expected at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_m2m100_translates_with_its_language_codes(m2m100, tmp_path):
    import transformers

    texts = ["moto mvula galu", "madzi", "moto mvula galu"]
    cache = tmp_path / "cache" / "translations.jsonl"
    translator = Translator(m2m100, "sw_TZ", num_beams=2, max_new_tokens=8, batch_size=1, cache=cache)
    assert (translator.source, translator.target) == ("sw", "en")
    seen = []
    made = translator(texts, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2)
    # As the library's own recipe does it.
    tokenizer = transformers.M2M100Tokenizer.from_pretrained(m2m100)
    model = transformers.M2M100ForConditionalGeneration.from_pretrained(m2m100)
    tokenizer.src_lang = "sw"
    for text, translation in zip(texts, made, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        english = tokenizer.get_lang_id("en")
        ids = model.generate(**inputs, forced_bos_token_id=english, num_beams=2, max_new_tokens=8)
        assert ids[0, 1] == english
        assert tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip() == translation
    # Kept: a second translator reads them and needs no model.
    again = Translator(m2m100, "sw", num_beams=2, max_new_tokens=8, cache=cache)
    assert again(texts) == made
    assert again._model is None
    lines = cache.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    # Of a run that was killed while it wrote, what is whole counts.
    cache.write_text(lines[0] + "\n" + lines[1][:20], encoding="utf-8")
    torn = Translator(m2m100, "sw", num_beams=2, max_new_tokens=8, cache=cache)
    assert len(torn.known) == 1
    assert torn(texts) == made


def test_a_language_that_the_model_does_not_know(m2m100):
    with pytest.raises(InputError, match=r"source: the translation model .* does not know 'ny'"):
        Translator(m2m100, "ny")
    with pytest.raises(InputError, match=r"translator: cannot load"):
        Translator("/no/such/model", "sw")
