"""BM25 against the formula."""

import math

import pytest
from optical_rs import InputError
from optical_rs.baselines import bm25
from optical_rs.baselines.bm25 import character_ngrams

pytest.importorskip("bm25s")

DOCUMENTS = {"a": "moto uli pa moto", "b": "madzi ali mu mtsuko waukulu", "c": "moto ndi madzi"}


def test_scores_are_those_of_the_formula():
    found = dict(bm25({"q": "moto madzi"}, DOCUMENTS)["q"])
    words = {name: text.split() for name, text in DOCUMENTS.items()}
    mean = sum(map(len, words.values())) / 3
    wanted = dict.fromkeys(DOCUMENTS, 0.0)
    for term in ("moto", "madzi"):
        having = sum(term in text for text in words.values())
        idf = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        for name, text in words.items():
            tf = text.count(term)
            wanted[name] += idf * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * len(text) / mean))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert next(iter(found)) == max(wanted, key=wanted.get)


def test_only_what_has_a_word_in_common():
    assert bm25({"q": "mtsuko", "none": "zzz", "empty": ""}, DOCUMENTS) == {
        "q": [("b", pytest.approx(bm25({"q": "mtsuko"}, DOCUMENTS)["q"][0][1]))], "none": [], "empty": [],
    }  # fmt: skip
    assert len(bm25({"q": "moto"}, DOCUMENTS, k=1)["q"]) == 1
    assert bm25({"q": "moto"}, {"a": ""}) == {"q": []}


def test_stemming():
    documents = {"a": "the dogs were running", "b": "a cat"}
    assert bm25({"q": "dog runs"}, documents)["q"] == []
    assert [d for d, _ in bm25({"q": "dog runs"}, documents, language="english")["q"]] == ["a"]


def test_names_are_found_within_longer_words():
    documents = {"a": "Ottawa is the capital of Canada", "b": "Ọyọ is in Nigeria", "c": "the river"}
    asked = {"zu": "Iyini inhlokodolobha yaseCanada?", "yo": "Níbo ni OYO wa", "none": "ki lo"}
    assert [d for d, _ in bm25(asked, documents, ngrams=5)["zu"]] == ["a"]
    assert bm25(asked, documents)["zu"] == []
    assert [d for d, _ in bm25(asked, documents, ngrams=5)["yo"]] == ["b"]
    assert bm25(asked, documents, ngrams=5)["none"] == []


def test_ngrams_longer_than_every_word_are_the_words():
    asked = {"q": "moto madzi"}
    assert bm25(asked, DOCUMENTS, ngrams=50) == bm25(asked, DOCUMENTS)


def test_every_run_of_characters_counts_once_for_each_place():
    assert character_ngrams("banana an", 2) == "ba an na an na an"
    assert character_ngrams("É1_ -- x", 3) == "e1_ x"
    assert character_ngrams("...", 3) == ""


def test_bad_input():
    for call, message in (
        (lambda: bm25({"q": "x"}, DOCUMENTS, k=0), "k: expected at least 1"),
        (lambda: bm25({"q": "x"}, {}), "documents: expected at least one"),
        (lambda: bm25({"q": "x"}, DOCUMENTS, language="chewa"), "language: no stemmer for 'chewa'"),
        (lambda: bm25({"q": "x"}, DOCUMENTS, ngrams=0), "ngrams: expected at least 1"),
        (
            lambda: bm25({"q": "x"}, DOCUMENTS, ngrams="5"),
            "ngrams: expected at least 1, and no language, got '5'",
        ),
        (
            lambda: bm25({"q": "x"}, DOCUMENTS, language="english", ngrams=5),
            "and no language, got 5 and 'english'",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
