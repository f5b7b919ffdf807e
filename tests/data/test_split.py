"""Pairs that are held out: nothing of them is left in training, and the order of lines does not matter."""

import random

import pytest
from optical_rs import InputError
from optical_rs.data import Bitext, hold_out, load_bitext, load_collection, without
from optical_rs.data.sources.known_item import normal


def messages(count=200):
    pairs = [(f"neno {i}", f"Word {i} is said.") for i in range(count)]
    # Copies, near-copies, two translations of one sentence, one translation of two.
    pairs += [("neno 1", "Word 1 is said."), ("Neno 2!", "word 2 is SAID"), ("maneno 3", "Word 3 is said.")]
    pairs += [("neno 4", "Another word is said."), ("tofauti", "another word is said!!")]
    return pairs


def bitext(pairs):
    return Bitext("toy", [f for f, _ in pairs], [e for _, e in pairs])


def test_nothing_that_is_held_out_is_left_in_training():
    for seed in range(20):
        train, held = hold_out(bitext(messages()), dev=30, test=50, seed=seed)
        assert {name: len(c.queries) for name, c in held.items()} == {"dev": 30, "test": 50}
        left = {normal(text) for text in (*train.english, *train.foreign)}
        seen = set()
        for collection in held.values():
            assert collection.side == "query"
            texts = {normal(text) for text in collection.queries.values()}
            texts |= {normal(collection.documents[d]) for judged in collection.qrels.values() for d in judged}
            assert not texts & (left | seen)
            seen |= texts
            assert collection.documents == held["test"].documents
        documents = [normal(text) for text in held["test"].documents.values()]
        assert len(documents) == len(set(documents)) == 201
        assert len(train) <= 205 - 80


def test_content_decides_and_not_the_order_of_lines():
    pairs = messages()
    train, held = hold_out(bitext(pairs), dev=30, test=50)
    random.Random(1).shuffle(pairs)
    other_train, other = hold_out(bitext(pairs), dev=30, test=50)
    assert held == other
    assert sorted(zip(train.foreign, train.english, strict=True)) == sorted(
        zip(other_train.foreign, other_train.english, strict=True)
    )
    assert hold_out(bitext(pairs), dev=30, test=50, seed=1)[1]["test"].queries != held["test"].queries
    # Dev takes nothing from test.
    assert hold_out(bitext(pairs), dev=0, test=50)[1]["test"].queries == held["test"].queries


def test_a_query_with_two_translations_has_both_judged():
    pairs = [("neno", "One word."), ("neno", "A word."), ("jina", "A name."), ("mtu", "A person.")]
    _, held = hold_out(bitext(pairs), dev=0, test=2)
    for query, judged in held["test"].qrels.items():
        found = {held["test"].documents[d] for d in judged}
        assert (found == {"One word.", "A word."}) == (held["test"].queries[query] == "neno")


def test_distractors_and_too_few_pairs():
    train, held = hold_out(bitext(messages(20)), dev=2, test=3, distractors=False)
    assert len(held["test"].documents) == len({normal(e) for e in held["test"].documents.values()}) < 10
    assert not {normal(text) for text in train.english} & set(map(normal, held["dev"].documents.values()))
    with pytest.raises(
        InputError, match=r"hold_out: toy has 20 distinct pairs; dev \(10\) and test \(10\) leave none"
    ):
        hold_out(bitext(messages(20)), dev=10, test=10)
    with pytest.raises(InputError, match="test: expected a number of pairs, 0 or more, got -1"):
        hold_out(bitext(messages()), test=-1)


def test_texts_of_a_test_are_kept_out():
    left = without(bitext(messages(10)), ["WORD 1 is said", "maneno 3"])
    assert "Word 1 is said." not in left.english
    assert "maneno 3" not in left.foreign
    assert "neno 3" in left.foreign
    assert len(left) == 12


def test_the_command(tmp_path, capsys):
    from optical_rs.cli.split import main

    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{f}\t{e}\n" for f, e in messages()), encoding="utf-8")
    folder = tmp_path / "out" / "held"
    main([str(file), "--output", str(folder), "--dev", "20", "--test=30"])
    printed = capsys.readouterr().out
    train = load_bitext(folder / "train.tsv")
    assert f"train.tsv: {len(train)} pairs of 205" in printed
    assert "test: 30 queries over 201 documents" in printed
    _, held = hold_out(load_bitext(file), dev=20, test=30)
    for split in ("dev", "test"):
        got = load_collection(folder, split=split)
        assert (got.queries, got.documents, got.qrels) == (
            held[split].queries,
            held[split].documents,
            held[split].qrels,
        )
    with pytest.raises(InputError, match="has no 'train'; it has dev, test"):
        load_collection(folder, split="train")
    with pytest.raises(InputError, match="output: expected a new or an empty folder"):
        main([str(file), "--output", str(folder), "--dev", "20", "--test=30"])
    with pytest.raises(InputError, match="expected a number of queries for one of them"):
        main([str(file), "--output", str(tmp_path / "none"), "--dev", "0", "--test", "0"])
    main([str(file), "--output", str(tmp_path / "one"), "--dev", "0", "--test", "5", "--no_distractors"])
    assert list((tmp_path / "one" / "qrels").iterdir()) == [tmp_path / "one" / "qrels" / "test.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "out", "pairs.tsv"]
