"""``Index``: by meaning, by words and by fields, in one store or in several, against a plain reading of the rules."""

import json
import shutil
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.baselines import bm25
from optical_rs.cli.index import main as index_main
from optical_rs.cli.search import main as search_main
from optical_rs.edge import Encoder
from optical_rs.edge.explanation import explained, snippet
from optical_rs.edge.fields import Fields, Values
from optical_rs.edge.index import index
from optical_rs.edge.rerank import rerank
from optical_rs.edge.search import Index
from optical_rs.ranking import fuse, read_run
from optical_rs.similarity import TokenStore

pytest.importorskip("onnxruntime")
pytest.importorskip("bm25s")

FIELDS = {"language": ["en", "ny", "ha"], "year": [1990, 1995.5, 2001], "tags": [["a"], ["a", "b"], []]}


def fields_of(i):
    return {name: values[i % 3] for name, values in FIELDS.items() if (i + len(name)) % 5}


@pytest.fixture(scope="module")
def encoder(exported):
    return Encoder(exported[0], precision="float32")


@pytest.fixture(scope="module")
def rows(documents):
    return [(name, text, fields_of(i)) for i, (name, text) in enumerate(documents.items())]


@pytest.fixture(scope="module")
def whole(encoder, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "index"
    index(encoder, rows, folder)
    return folder


def seen(hits):
    return [(h.document, h.score, h.text, h.fields, h.similarity, h.words, h.snippet) for h in hits]


def test_the_model_is_found_where_it_lay(whole, encoder, documents):
    found = Index(whole, precision="float32").search("the dog runs fast")
    assert seen(found) == seen(Index(whole, encoder).search("the dog runs fast"))
    assert found[0].text == "the dog runs fast"
    assert found[0].similarity == found[0].score
    assert found[0].words is None


@pytest.mark.parametrize("lexical", [False, True])
def test_filters_leave_out_and_change_nothing_else(whole, encoder, rows, lexical):
    opened = Index(whole, encoder)
    assert opened.fields == ["language", "tags", "year"]
    everything = opened.search("the dog", len(rows))
    for filters, wanted in (
        ({"language": "en"}, lambda f: f.get("language") == "en"),
        ({"language": ["en", "ha"]}, lambda f: f.get("language") in ("en", "ha")),
        ({"year": {"gte": 1995.5, "lt": 2001}}, lambda f: 1995.5 <= f.get("year", 0) < 2001),
        ({"tags": "b", "year": {"gt": 0}}, lambda f: "b" in f.get("tags", []) and "year" in f),
        ({}, lambda f: True),
    ):
        names = {name for name, _, fields in rows if wanted(fields)}
        assert names
        found = opened.search("the dog", len(rows), filters=filters, lexical=lexical)
        assert {hit.document for hit in found} == names
        assert {h.document: h.similarity for h in found} == {
            h.document: h.score for h in everything if h.document in names
        }
        assert all(hit.fields == dict(zip(hit.fields, hit.fields.values(), strict=True)) for hit in found)


def test_words_and_meaning_are_fused(whole, encoder, documents):
    opened = Index(whole, encoder)
    for query in ("the dog runs porridge", "she likes fish", "unheard"):
        meaning = {h.document: h.score for h in opened.search(query, 100)}
        words = dict(bm25({"q": query}, documents)["q"])
        fused = fuse([{"q": meaning}, {"q": words}])["q"]
        found = opened.search(query, 5, lexical=True)
        assert [(h.document, h.score) for h in found] == list(fused.items())[:5]
        assert [h.words for h in found] == pytest.approx([words.get(h.document, 0.0) for h in found])
        assert [h.similarity for h in found] == [meaning[h.document] for h in found]


@given(data=st.data())
def test_shards_are_one_index(data, whole, encoder, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    places = [data.draw(st.integers(0, 2)) for _ in rows]
    paths = []
    for shard in range(3):
        index(
            encoder, [row for row, at in zip(rows, places, strict=True) if at == shard], folder / str(shard)
        )
        paths.append(folder / str(shard))
    one, several = Index(whole, encoder), Index(data.draw(st.permutations(paths)), encoder)
    k, lexical = data.draw(st.integers(1, 15)), data.draw(st.booleans())
    filters = data.draw(st.sampled_from([None, {"language": ["en", "ny"]}]))
    query = data.draw(st.sampled_from(["the dog", "rain fell", "moto uli", "we went to the big market"]))
    try:
        wanted = seen(one.search(query, k, filters=filters, lexical=lexical, snippets=True))
    except InputError:
        return
    found = several.search(query, k, filters=filters, lexical=lexical, snippets=True)
    assert seen(found) == wanted
    assert all(several.text(hit.number) == hit.text for hit in found)


def test_what_was_deleted_is_found_by_nothing(encoder, rows, tmp_path):
    store = index(encoder, rows, tmp_path / "s")
    store.delete(["d4"])
    opened = Index(tmp_path / "s", encoder)
    for options in ({}, {"lexical": True}, {"filters": {"year": {"gte": 0}}, "lexical": True}):
        assert "d4" not in [h.document for h in opened.search("mother cooks porridge", 100, **options)]


def test_pieces_count_once(encoder, tmp_path):
    long = " ".join(["the water is in the jar"] * 5 + ["mother cooks porridge"] + ["the house is big"] * 5)
    rows = [("long", long, {"n": 1}), ("short", "the dog runs fast", {"n": 2})]
    index(encoder, rows, tmp_path / "s", window=4, overlap=1)
    opened = Index(tmp_path / "s", encoder)
    for lexical in (False, True):
        found = opened.search("porridge", 5, lexical=lexical)
        assert sorted(h.document for h in found) == ["long", "short"]
        assert [h.document for h in opened.search("porridge", filters={"n": 1}, lexical=lexical)] == ["long"]
    by_words = {h.document: h for h in found}["long"]
    assert by_words.words > 0


def test_fields_are_replaced_without_encoding(encoder, documents, tmp_path):
    store = index(encoder, [(n, t, {"year": 1}) for n, t in documents.items()], tmp_path / "s")
    before = store.fingerprint
    again = [
        (n, t, {"year": 2} if n == "d1" else {} if n == "d2" else {"year": 1}) for n, t in documents.items()
    ]
    store = index(encoder, again, tmp_path / "s")
    assert store.fingerprint == before
    assert dict(Fields(tmp_path / "s").items()) == {n: f for n, _, f in again if f}
    assert [h.document for h in Index(tmp_path / "s", encoder).search("x", filters={"year": 2})] == ["d1"]


def test_fields_come_before_texts_and_a_call_that_is_repeated_ends_it(encoder, tmp_path, monkeypatch):
    index(encoder, [("a", "the dog runs fast", {"year": 1})], tmp_path / "s")

    def killed(*_, **__):
        raise KeyboardInterrupt

    def shown():
        return [(hit.text, hit.fields) for hit in Index(tmp_path / "s", encoder).search("the dog", 1)]

    changed = [("a", "the school is far", {"year": 2})]
    with monkeypatch.context() as patched:
        patched.setattr(TokenStore, "append_columns", killed)
        with pytest.raises(KeyboardInterrupt):
            index(encoder, changed, tmp_path / "s")
    assert shown() == [("the dog runs fast", {"year": 2})]
    index(encoder, changed, tmp_path / "s")
    assert shown() == [("the school is far", {"year": 2})]


def test_a_snippet_is_the_part_that_answers(encoder, tmp_path):
    long = " ".join(["the house is big"] * 40 + ["the dog runs fast"] + ["we went to the market"] * 40)
    opened = Index(
        index(encoder, {"a": long, "b": "the sun shines"}, tmp_path / "s", window=16).path, encoder
    )
    hit = opened.search("the dog runs fast", 1, snippets=True)[0]
    assert "dog" in hit.text
    assert "dog" in hit.snippet
    assert hit.explanation is None


scalars = st.one_of(st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, -1.5]), st.sampled_from("abc"))
table = st.lists(st.dictionaries(st.sampled_from("xy"), scalars | st.lists(scalars, max_size=3)), min_size=1)


def test_fields_are_those_of_the_documents_as_they_were(encoder, tmp_path):
    folder = tmp_path / "index"
    index(encoder, [("a", "the draft about dogs", {"status": "draft"}), ("b", "rain", {"old": 1})], folder)
    opened = Index(folder, encoder)
    index(encoder, [("a", "the final text about dogs", {"status": "final"})], folder)
    TokenStore(folder).delete(["b"])
    (hit,) = opened.search("dogs", filters={"status": "draft"})
    assert (hit.text, hit.fields) == ("the draft about dogs", {"status": "draft"})
    # A deleted document has no fields, and none says what kind the others are of.
    again = Index(folder, encoder)
    assert again.fields == ["status"]
    with pytest.raises(InputError, match="no document has a field 'old'"):
        again.search("dogs", filters={"old": 1})
    # Nor have the documents of an index that is made in the place of another.
    shutil.rmtree(folder)
    index(encoder, {"c": "bread"}, folder)
    assert Index(folder, encoder).fields == []


def test_deleted_texts_are_not_explained(encoder, tmp_path):
    index(encoder, {"a": "the secret", "b": "rain"}, tmp_path / "index")
    TokenStore(tmp_path / "index").delete(["a"])
    opened = Index(tmp_path / "index", encoder)
    assert opened.live().tolist() == [1]
    opened.explain("rain", 1)
    for number in (0, 2, -1):
        with pytest.raises(InputError, match=f"number: no text {number}, or it is deleted"):
            opened.explain("rain", number)


def test_ties_go_to_the_higher_document_also_with_pieces(encoder, tmp_path):
    texts = dict.fromkeys(("a", "a 2", "a!", "b"), "the dog runs fast")
    index(encoder, texts, tmp_path / "whole")
    index(encoder, texts, tmp_path / "cut", window=16, overlap=4)
    for k in range(1, 5):
        whole, cut = (Index(tmp_path / name, encoder).search("the dog", k) for name in ("whole", "cut"))
        assert [hit.document for hit in cut] == [hit.document for hit in whole]
        assert [hit.document for hit in whole] == sorted(texts, reverse=True)[:k]


def test_words_and_similarity_of_every_hit_are_its_own(encoder, tmp_path, monkeypatch):
    from optical_rs.edge import search as module

    monkeypatch.setattr(module, "_DEPTH", 2)
    texts = {f"d{i}": f"the dog and {'the dog ' * i} of the house" for i in range(8)}
    index(encoder, texts, tmp_path / "whole")
    index(encoder, texts, tmp_path / "cut", window=12, overlap=2)
    for folder in ("whole", "cut"):
        opened = Index(tmp_path / folder, encoder)
        alone = {hit.document: hit.score for hit in opened.search("dog", 8, exact=True)}
        hits = opened.search("dog", 3, lexical=True)
        assert all(hit.words > 0 for hit in hits)
        for hit in hits:
            assert hit.similarity == pytest.approx(alone[hit.document], abs=1e-5)


def test_a_snippet_of_numbered_tokens_is_the_beginning(encoder, tmp_path):
    long = " ".join(f"word{i}" for i in range(100))
    asked, said = encoder.cut("the dog", "query"), encoder.cut(long, "document")
    why = explained(asked, said, (np.eye(2, 4, dtype=np.float32), np.eye(3, 4, dtype=np.float32)))
    assert why.numbered
    assert snippet(why, long, 30) == "word0 word1 word2 word3 word4 …"


def plainly(row, name, wanted):
    """The rules of filters, one value at a time."""
    values = row.get(name, [])
    for value in values if isinstance(values, list) else [values]:
        kind = "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        if isinstance(wanted, dict):
            limits = [(bound, limit) for bound, limit in wanted.items()]
            if kind == "bool" or any(isinstance(limit, str) != (kind == "text") for _, limit in limits):
                continue
            signs = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
            if kind == "text":
                value, limits = ord(value), [(b, ord(limit)) for b, limit in limits]
            if all(signs[bound](value, limit) for bound, limit in limits):
                return True
        else:
            for one in wanted if isinstance(wanted, list) else [wanted]:
                same = isinstance(one, bool) == isinstance(value, bool)
                if same and isinstance(one, str) == isinstance(value, str) and one == value:
                    return True
    return False


@given(
    table,
    st.dictionaries(
        st.sampled_from("xy"),
        scalars
        | st.lists(scalars, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), st.integers(-2, 2), min_size=1)
        | st.dictionaries(st.sampled_from(["gt", "lte"]), st.sampled_from("abc"), min_size=1),
    ),
)
def test_filters_follow_their_rules(rows, filters):
    try:
        found = Values(len(rows), enumerate(rows)).select(filters)
    except InputError as error:
        # Refused is what no row could satisfy.
        name = str(error).split("'")[1]
        assert not any(
            plainly(row, name, wanted) for row in rows for wanted in [filters[name]]
        ) or isinstance(filters[name], list)
        return
    assert found.tolist() == [all(plainly(row, n, w) for n, w in filters.items()) for row in rows]


def test_the_commands(exported, rows, tmp_path, capsys):
    lines = [json.dumps({"_id": n, "text": t, "metadata": f}) for n, t, f in rows]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.tsv").write_text("q\tporridge\n")
    for name, part in (("one", lines[:6]), ("two", lines[6:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    for name in ("documents", "one", "two"):
        file = str(tmp_path / f"{name}.jsonl")
        index_main(["--model", str(exported[0]), "--documents", file, "--output", str(tmp_path / name)])
    runs = []
    for shards in (["documents"], ["two", "one"]):
        arguments = ["--index", *(str(tmp_path / name) for name in shards)]
        arguments += ["--queries", str(tmp_path / "queries.tsv"), "--output", str(tmp_path / "run")]
        search_main([*arguments, "--lexical", "--filters", '{"year": {"lt": 2000}}'])
        runs.append(read_run(tmp_path / "run"))
    assert runs[0] == runs[1]
    assert next(iter(runs[0]["q"])) == "d4"
    with pytest.raises(InputError, match="--filters: expected JSON"):
        search_main([*arguments, "--filters", "year=3"])


def test_rerank_takes_a_run_alone(exported, whole, encoder, tmp_path):
    (tmp_path / "q.tsv").write_text("q1\tthe dog\n")
    (tmp_path / "run").write_text("q1 Q0 d0 1 2.0 x\n")
    common = ["--index", str(whole), "--model", str(exported[0]), "--queries", str(tmp_path / "q.tsv")]
    common += ["--output", str(tmp_path / "out"), "--rerank", str(tmp_path / "run")]
    for more, name in (
        (["--filters", '{"year": 1990}'], "filters"),
        (["--lexical"], "lexical"),
        (["--exact"], "exact"),
        (["--k", "3"], "k"),
    ):
        with pytest.raises(InputError, match=f"--{name}: cannot be combined with --rerank"):
            search_main([*common, *more])
    for more, message in (
        (["--json", *common[4:8]], "--json: cannot be combined with --output"),
        (["--explain", *common[4:8]], "--explain: cannot be combined with --output"),
        (["--explain", "--json", *common[4:6]], "--explain: cannot be combined with --json"),
        (common[6:8], "--output: needs --queries"),
    ):
        with pytest.raises(InputError, match=message):
            search_main([*common[:4], *more])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="depth: expected at least 1, got 0"):
        rerank(Index(whole, encoder), {"q": "the dog"}, {"q": {"d0": 1.0}}, depth=0)


def test_fields_of_numpy_are_kept_and_others_refused_before_anything_is_made(encoder, tmp_path):
    rows = [
        ("a", "the fire", {"year": np.int64(1990), "score": np.float32(0.5), "own": [np.True_, np.str_("x")]})
    ]
    found = Index(index(encoder, rows, tmp_path / "s").path, encoder)
    assert found.search("fire", 1)[0].fields == {"year": 1990, "score": 0.5, "own": [True, "x"]}
    assert found.search("fire", 1, filters={"year": np.int32(1990)})
    with pytest.raises(InputError, match=r"^filters: 'own': expected text or true or false, got 3$"):
        found.search("fire", 1, filters={"own": 3})
    index(encoder, [("b", "the dog", {"flag": True})], tmp_path / "s")
    with pytest.raises(
        InputError, match=r"^filters: 'flag': expected true or false, got the range {'gte': True}"
    ):
        Index(tmp_path / "s", encoder).search("fire", 1, filters={"flag": {"gte": True}})
    for value in (Decimal(1), np.float64("nan"), {"a": 1}, (1, 2), b"x", "\ud800", ["\ud800"], 10**400):
        with pytest.raises(InputError, match=r"^documents: 'a', field 'x': expected "):
            index(encoder, [("a", "the fire", {"x": value})], tmp_path / "new")
    with pytest.raises(InputError, match=r"^documents: 'a', fields: expected Unicode text"):
        index(encoder, [("a", "the fire", {"\ud800": 1})], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bad_input(exported, whole, encoder, documents, tmp_path):
    index(Encoder(exported[0], precision="int8"), documents, tmp_path / "bytes")
    TokenStore.create(tmp_path / "small", 5, {"model": "another"})
    (tmp_path / "link").symlink_to(whole)
    opened = Index(whole, encoder)
    model_gone = TokenStore.create(tmp_path / "gone", 8, {"model": "m", "model_path": "nowhere"})
    for call, message in (
        (lambda: Index([], encoder), "path: expected at least one index"),
        (lambda: Index(tmp_path / "nothing", encoder), "is no token store"),
        (lambda: Index([whole, tmp_path / "link"], encoder), "path: .* is given twice"),
        (lambda: Index([whole, tmp_path / "bytes"], encoder), "path: .*bytes was made with another model"),
        (lambda: Index([whole, tmp_path / "small"], encoder), r"was made with another model \(another\)"),
        (lambda: Index(model_gone.path), "model: expected the exported model that encodes queries"),
        (lambda: opened.search(" "), "queries: expected text"),
        (lambda: opened.search("a", 0), "k: expected at least 1"),
        (lambda: opened.search("a", filters="en"), "filters: expected a dict"),
        (
            lambda: opened.search("a", filters={"lang": 1}),
            "no document has a field 'lang'; did you mean 'language'",
        ),
        (lambda: opened.search("a", filters={"year": "1990"}), "'year': expected numbers, got '1990'"),
        (lambda: opened.search("a", filters={"year": True}), "'year': expected numbers, got True"),
        (lambda: opened.search("a", filters={"year": {"from": 3}}), "unknown bound 'from'"),
        (lambda: opened.search("a", filters={"year": {}}), "expected a range with gt, gte, lt, lte"),
        (lambda: opened.search("a", filters={"year": {"gte": "a"}}), "'year': expected numbers, got 'a'"),
        (lambda: index(encoder, [("a", "b", {"x": {}})], tmp_path / "x"), "'a', field 'x': expected text"),
        (
            lambda: index(encoder, [("a", "b", {"x": float("nan")})], tmp_path / "x"),
            "field 'x': expected text",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.fields").exists()
