"""Bitext and collections, from files in the true formats and from installed packages."""

import gzip
import json
import re

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext, load_collection, stream_documents
from optical_rs.files import read_texts

HAS_KOLIBRI = pytest.importorskip("importlib.util").find_spec("kolibri") is not None
needs_demo = pytest.mark.skipif(not HAS_KOLIBRI, reason="extra 'demo' is not installed")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "moto\tfire\nmadzi\twater\n"),
        ("b.tsv", "english\tid\tforeign\nfire\t1\tmoto\nwater\t2\tmadzi\n"),
        ("c.csv", 'id,english,foreign\n1,fire,moto\n2,"water","madzi"\n'),
        ("d.jsonl", '{"foreign": "moto", "english": "fire"}\n{"english": "water", "foreign": "madzi"}\n'),
        ("e.tsv", "moto\tfire\r\nmadzi\twater\r\n"),
    ],
)
def test_text_formats(tmp_path, name, text):
    spec = write(tmp_path / name, text)
    bitext = load_bitext(spec)
    assert (bitext.foreign, bitext.english) == (["moto", "madzi"], ["fire", "water"])
    zipped = tmp_path / f"{name}.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    assert load_bitext(str(zipped)).foreign == bitext.foreign


def test_moses_pairs(tmp_path):
    f, e = write(tmp_path / "x.ny", "moto\nmadzi\n"), write(tmp_path / "x.en", "fire\nwater\n")
    assert load_bitext(f"{f},{e}").english == ["fire", "water"]
    write(tmp_path / "x.en", "fire\n")
    with pytest.raises(InputError, match=r"x\.en:1: ends after 1 lines, but .*x\.ny has 2"):
        load_bitext(f"{f},{e}")


def test_parquet_and_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"sw": ["moto"], "en": ["fire"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    spec = str(tmp_path / "x.parquet")
    assert load_bitext(spec, columns=("sw", "en")).foreign == ["moto"]
    with pytest.raises(InputError, match="no column 'swa'; did you mean 'sw'"):
        load_bitext(spec, columns=("swa", "en"))
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a Parquet file"):
        load_bitext(str(tmp_path / "bad.parquet"))


def test_damaged_parquet_is_one_line(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"translation": [["moto"], ["madzi"]]}), file)
    with pytest.raises(
        InputError, match=r"row 1: translation: expected an object of languages, got \['moto'\]"
    ):
        load_bitext(file)
    table = arrow.table({"foreign": [f"moto {i}" for i in range(500)], "english": ["fire"] * 500})
    parquet.write_table(table, file, compression="gzip", use_dictionary=False)
    good = file.read_bytes()
    file.write_bytes(good[:100] + b"\xff" * 60 + good[160:])
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read"):
        load_bitext(file)


def test_hub_datasets_through_a_local_one(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", '{"foreign": "moto", "english": "fire"}\n')
    assert load_bitext(f"hf:{folder}:train").english == ["fire"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"moto\tfire\nmadzi\n", r"a\.tsv:2: expected 2 columns"),
        ("a.tsv", b"moto\tfire\n\xff\xfe\twater\n", r"a\.tsv:2: not valid UTF-8"),
        (
            "a.tsv",
            "moto\tfire\nmadzi\ta caf\xe9\n".encode("cp1252"),
            r"a\.tsv:2: not valid UTF-8: byte 12 of the line is 0xe9; convert the file, .*iconv -f CP1252 -t UTF-8",
        ),
        ("a.csv", "foreign,english\nmoto,na\xefve\n".encode("cp1252"), r"a\.csv:2: .*byte 8 .* is 0xef"),
        ("a.jsonl", '{"foreign": "\xe9", "english": "y"}\n'.encode("cp1252"), r"a\.jsonl:1: .*byte 14 "),
        ("a.tsv", "moto\tfire\n".encode("utf-16"), r"a\.tsv:1: expected UTF-8, got UTF-16"),
        ("a.tsv", b"", "no sentence pairs"),
        ("a.csv", b"id,english\n1,fire\n", r"a\.csv:1: no column 'foreign'"),
        (
            "a.jsonl",
            b'{"foreign": "x", "english": "y"}\n{"foreign": 1}\n',
            r"a\.jsonl:2: no column 'english'",
        ),
        ("a.jsonl", b"{\n", r"a\.jsonl:1: not valid JSON"),
        (
            "a.jsonl",
            b'{"foreign": 3, "english": "y"}\n',
            r"a\.jsonl:1: the foreign side: expected text, got 3",
        ),
        (
            "a.tsv",
            b"moto\t\n \twater\n",
            r"no sentence pairs: a side is empty at 1 \(english\), 2 \(foreign\)",
        ),
        ("a.txt", b"x", "cannot tell what"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_bitext(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_files_and_unknown_sets(tmp_path):
    for spec, message in (
        (str(tmp_path / "no.tsv"), "no such file"),
        ("bible:sw", "bible: no language 'sw'; expected one of: ny"),
        ("kolibr:ny", "did you mean 'kolibri:ny'"),
        ("a,b,c", "expected two files"),
        ("a\0b.tsv", "expected a path"),
    ):
        with pytest.raises(InputError, match=message):
            load_bitext(spec)
    with pytest.raises(InputError, match="split: unknown split 'tets'; did you mean 'test'"):
        load_bitext("bible:ny", split="tets")
    with pytest.raises(InputError, match=r"split: bible:ny has no 'tets'; it has train, dev, test"):
        load_collection("bible:ny", split="tets")


def test_beir_folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    write(
        tmp_path / "corpus.jsonl",
        '{"_id": "d1", "title": "Fire", "text": "burns"}\n{"_id": "d2", "text": "x"}\n',
    )
    write(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "moto"}\n{"_id": "q2", "text": "unjudged"}\n')
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    collection = load_collection(str(tmp_path))
    assert collection.documents == {"d1": "Fire burns", "d2": "x"}
    assert collection.queries == {"q1": "moto"}
    assert collection.qrels == {"q1": {"d1": 2}}
    with pytest.raises(InputError, match=re.escape("has no 'dev'; it has test")):
        load_collection(str(tmp_path), split="dev")
    write(tmp_path / "queries.jsonl", '{"_id": "q1"}\n')
    with pytest.raises(InputError, match=r"queries\.jsonl:1: expected"):
        load_collection(str(tmp_path))


def test_trec_folder(collection_folder, pairs):
    collection = load_collection(str(collection_folder))
    assert len(collection.queries) == len(pairs)
    small = collection.sample(queries=3, documents=5, seed=1)
    assert (len(small.queries), len(small.documents)) == (3, 5)
    assert all(d in small.documents for judged in small.qrels.values() for d in judged)
    assert small == collection.sample(queries=3, documents=5, seed=1)
    for wrong, message in (
        ({"queries": 0}, "queries: expected at least 1, got 0"),
        ({"queries": -5}, "queries: expected at least 1, got -5"),
        ({"documents": -1}, "documents: expected at least 0, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            collection.sample(**wrong)
    (collection_folder / "documents.tsv").write_text("d0 no tab\n")
    with pytest.raises(InputError, match=r"documents\.tsv:1: expected 'id<TAB>text'"):
        load_collection(str(collection_folder))


def test_documents_are_read_as_they_are_asked_for(collection_folder, pairs, tmp_path):
    file = collection_folder / "documents.tsv"
    for spec in (str(collection_folder), str(file)):
        documents = stream_documents(spec)
        assert len(documents) == len(pairs)
        assert dict(documents) == load_collection(str(collection_folder)).documents
        assert next(iter(documents)) == ("d0", pairs[0][1])
    packed = tmp_path / "more.jsonl.gz"
    with gzip.open(packed, "wt", encoding="utf-8") as to:
        to.writelines(f'{{"_id": "{i}", "text": "é {i}"}}\n' for i in range(1000))
    documents = stream_documents(str(packed))
    assert len(documents) == 1000
    assert dict(documents)["999"] == "é 999"
    for text, message in (("a\tx\na\ty\n", ":2: id 'a' is repeated"), ("", "got an empty file")):
        write(file, text)
        with pytest.raises(InputError, match=message):
            len(stream_documents(str(file)))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken gzip file"):
        len(stream_documents(str(packed)))
    with pytest.raises(InputError, match="no folder"):
        stream_documents(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"id": "a", "text": "fire"}',
            r'x\.jsonl:1: expected \{"_id": …, "text": …\}, got the keys: id, text$',
        ),
        ('{"_id": "a", "text": "fire"}\n\n{"docid": "b", "text": "rain"}', ":3: expected .*: docid, text$"),
        ('{"_id": "a", "text": "fire"}\n\n{"_id": "a", "text": "rain"}', ":3: id 'a' is repeated"),
        ("{}", "got the keys: none"),
        ('["a", "fire"]', ":1: expected a JSON object"),
        ("[" * 100_000, ":1: not valid JSON"),
        ('{"_id": %s, "text": "fire"}' % ("1" * 5000), ":1: not valid JSON"),
        ('{"_id": null, "text": "fire"}', ":1: _id: expected a text or an integer, got None"),
        ('{"_id": true, "text": "fire"}', ":1: _id: expected a text or an integer, got True"),
        (
            r'{"_id": "a", "text": "\ud83d\ude00"}' + "\n" + r'{"_id": "b", "text": "\ud800"}',
            ":2: not valid Unicode",
        ),
        (r'{"_id": "a\uDC00", "text": "fire"}', ":1: not valid Unicode"),
        ('{"_id": "a", "text": null}', ":1: text: expected a text, got None"),
        ('{"_id": "a", "text": "fire", "title": ["x"]}', r":1: title: expected a text, got \['x'\]"),
        ('{"_id": "a", "text": "fire", "metadata": 3}', ":1: metadata: expected an object, got 3"),
    ],
)
def test_bad_documents_are_named(tmp_path, lines, message):
    write(tmp_path / "x.jsonl", lines)
    for read in (
        lambda: len(stream_documents(tmp_path / "x.jsonl")),
        lambda: read_texts(tmp_path / "x.jsonl"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert len(str(caught.value)) < 500
    write(tmp_path / "x.jsonl", '{"_id": 7, "text": "fire", "title": null}\n\n')
    assert read_texts(tmp_path / "x.jsonl") == {"7": "fire"}


def test_unknown_collections(tmp_path):
    for spec, message in (
        (str(tmp_path), "neither corpus.jsonl"),
        ("kolibri", "kolibri"),
        ("nowhere", "no folder 'nowhere'"),
    ):
        with pytest.raises(InputError, match=message):
            load_collection(spec)


@needs_demo
def test_kolibri_splits_are_disjoint_and_shared_by_languages():
    parts = {s: load_bitext("kolibri:ny", split=s) for s in ("train", "dev", "test", "all")}
    assert sum(len(parts[s]) for s in ("train", "dev", "test")) == len(parts["all"]) > 900
    assert not set(parts["train"].english) & set(parts["test"].english)
    assert not set(load_bitext("kolibri:sw", split="train").english) & set(parts["test"].english)
    collection = load_collection("kolibri:ny")
    assert len(collection.documents) == 1092
    assert all(collection.documents[q] in parts["test"].english for q in collection.queries)
    turned = load_collection("kolibri:ny", side="document")
    assert set(turned.queries) == set(collection.queries)
    assert set(turned.queries.values()) == set(parts["test"].english)
    with pytest.raises(InputError, match="no language 'nyy'; did you mean 'ny'"):
        load_collection("kolibri:nyy")


@needs_demo
def test_a_pool_of_languages():
    one = load_collection("kolibri:ny", side="document")
    pool = load_collection("kolibri:en+ny+yo", side="document")
    assert set(one.queries) <= set(pool.queries)
    for query, judged in one.qrels.items():
        assert pool.queries[query] == one.queries[query]
        assert {f"{d}/ny" for d in judged} | {f"{query}/en"} <= set(pool.qrels[query])
    assert all(pool.documents[f"{d}/ny"] == text for d, text in one.documents.items())
    assert {name.partition("/")[2] for name in pool.documents} == {"en", "ny", "yo"}
    turned = load_collection("kolibri:ny+yo")
    assert turned.documents == load_collection("kolibri:ny").documents
    assert all(list(judged) == [query.partition("/")[0]] for query, judged in turned.qrels.items())
    pairs = load_bitext("kolibri:en+ny+yo")
    assert len(pairs) == len(load_bitext("kolibri:ny")) + len(load_bitext("kolibri:yo"))
    for load in (load_bitext, load_collection):
        with pytest.raises(InputError, match="kolibri: no language 'yoo'"):
            load("kolibri:ny+yoo")


@needs_demo
def test_the_bible_is_aligned():
    from optical_rs.data.sources import bible

    verses = bible.aligned()
    assert verses[1, 1, 1][1].startswith("In the beginning God created")
    assert len(verses) > 30_000
    collection = load_collection("bible:ny").sample(queries=20, documents=100)
    assert all(len(text.split()) <= 10 for text in collection.queries.values())
    assert len(bible.english("asv")) > 31_000


def test_length_buckets_are_even_complete_and_repeatable(pairs):
    datasets = pytest.importorskip("datasets")
    from optical_rs.training.batches import LengthBucketBatchSampler

    texts = ["x" * int(n) for n in np.random.default_rng(0).integers(1, 200, 1000)]
    dataset = datasets.Dataset.from_dict({"foreign": texts, "label": list(range(1000))})

    def sampler(seed, epoch):
        made = LengthBucketBatchSampler(dataset, 16, False, valid_label_columns=["label"], seed=seed)
        made.set_epoch(epoch)
        return made

    batches = list(sampler(0, 0))
    assert sorted(i for b in batches for i in b) == list(range(1000))
    assert len(batches) == len(sampler(0, 0)) == 63
    assert batches == list(sampler(0, 0))
    assert batches != list(sampler(0, 1))
    assert batches != list(sampler(1, 0))
    padded = sum(len(b) * max(len(texts[i]) for i in b) for b in batches)
    assert padded < 1.25 * sum(map(len, texts))


def test_json_output_is_plain(tmp_path):
    # Ids and texts of any script survive a round trip through a BEIR folder.
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "corpus.jsonl", json.dumps({"_id": "é", "text": "мир"}) + "\n")
    write(tmp_path / "queries.jsonl", json.dumps({"_id": "q", "text": "ọjọ́"}) + "\n")
    write(tmp_path / "qrels" / "test.tsv", "q\té\t1\n")
    assert load_collection(str(tmp_path)).documents == {"é": "мир"}
