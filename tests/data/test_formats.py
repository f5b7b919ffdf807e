"""What bitext and collections look like in the wild: marks, headers, line breaks, empty sides, nested columns, bombs."""

import gzip
import json
import pathlib
import tracemalloc
import zipfile

import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext, load_collection, load_pairs, splits_of, stream_documents
from optical_rs.data.formats import tmx
from optical_rs.data.sources import trec
from optical_rs.files import read_qrels, read_run, read_texts

BOM = "\ufeff"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", f"{BOM}moto\tfire\nmadzi\twater\n"),
        ("a.csv", f"{BOM}foreign,english\nmoto,fire\nmadzi,water\n"),
        ("a.tsv", f"{BOM}english\tforeign\r\nfire\tmoto\r\nwater\tmadzi\r\n"),
        ("a.tsv", "English\tNyanja\nfire\tmoto\nwater\tmadzi\n"),
        ("a.tsv", "ny\ten\nmoto\tfire\nmadzi\twater\n"),
        ("a.csv", "eng,nya\nfire,moto\r\nwater,madzi\r\n"),
        (
            "a.jsonl",
            f'{BOM}{{"foreign": "moto", "english": "fire"}}\n\n{{"foreign": "madzi", "english": "water"}}\r\n',
        ),
        (
            "a.json",
            '{"translation": {"en": "fire", "ny": "moto"}}\n{"translation": {"en": "water", "ny": "madzi"}}\n',
        ),
        ("a.tsv", "moto\tfire\n\nmadzi\twater\n\n"),
    ],
)
def test_the_same_pairs(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    found = load_bitext(path)
    assert (found.foreign, found.english) == (["moto", "madzi"], ["fire", "water"])
    assert found.skipped == 0


def test_line_breaks_in_a_field_are_spaces(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('foreign,english\n"moto\nwaukulu","big\r\nfire"\n', encoding="utf-8", newline="")
    found = load_bitext(path)
    assert (found.foreign, found.english) == (["moto waukulu"], ["big fire"])
    path.write_text('foreign,english\n"' + "x\n" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv:\d+: not valid CSV"):
        load_bitext(path)


def test_moses_with_marks_and_carriage_returns(tmp_path):
    (tmp_path / "x.ny").write_bytes(f"{BOM}moto\r\nmadzi\r\n".encode())
    (tmp_path / "x.en").write_bytes(f"{BOM}fire\r\nwater\r\n".encode())
    found = load_bitext(f"{tmp_path}/x.ny,{tmp_path}/x.en")
    assert (found.foreign, found.english) == (["moto", "madzi"], ["fire", "water"])


@pytest.mark.parametrize("columns", [("ny", "en"), ("foreign", "english")])
def test_names_of_columns(tmp_path, columns):
    path = tmp_path / "a.tsv"
    path.write_text("ny\ten\tsource\nmoto\tfire\tx\n")
    assert load_bitext(path, columns=("ny", "en")).foreign == ["moto"]
    with pytest.raises(InputError, match=r"a\.tsv:1: no column 'fr'"):
        load_bitext(path, columns=("fr", "en"))
    # Of three columns two might be the foreign one.
    with pytest.raises(InputError, match=r"a\.tsv:1: no column 'foreign'; expected one of: en, ny, source"):
        load_bitext(path)
    for names in ("source\ttarget", "Sentence\ttranslation", "foreign\ttext"):
        path.write_text(f"{names}\nmoto\tfire\n")
        with pytest.raises(InputError, match=r"a\.tsv:1: .* are names of columns; say which one is English"):
            load_bitext(path)
    path.write_text("nya_Latn\teng_Latn\nmoto\tfire\n")
    assert load_bitext(path).foreign == ["moto"]
    path.write_text("ny\tenglish words\nmoto\tfire\n")
    with pytest.raises(InputError, match=r"a\.tsv:1: no column 'sw'"):
        load_bitext(path, columns=("sw", "en"))


def test_rows_with_an_empty_side_are_counted(tmp_path):
    path = tmp_path / "a.tsv"
    lines = [f"neno {i}\tword {i}" for i in range(1000)]
    for i in (3, 500, 501, 600, 700, 800):
        lines[i] = f"neno {i}\t "
    lines[4] = "\tword"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.warns(UserWarning, match="rows were skipped") as caught:
        found = load_bitext(path)
    assert (len(found), found.skipped) == (993, 7)
    assert str(caught[0].message).endswith(
        "7 rows were skipped, as a side is empty: "
        "4 (english), 5 (foreign), 501 (english), 502 (english), 601 (english), …"
    )
    assert repr(found) == f"Bitext('{path}', 993 pairs, 7 rows skipped)"
    (tmp_path / "a.jsonl").write_text('{"foreign": null, "english": "x"}\n{"foreign": "y", "english": "z"}\n')
    with pytest.warns(UserWarning, match="1 row was skipped"):
        assert load_bitext(tmp_path / "a.jsonl").foreign == ["y"]


def test_nested_columns_of_parquet_and_of_the_hub(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"en": "fire", "ny": "moto"}, {"en": "water", "ny": "madzi"}]
    parquet.write_table(pa.table({"id": ["1", "2"], "translation": rows}), tmp_path / "x.parquet")
    assert load_bitext(tmp_path / "x.parquet").foreign == ["moto", "madzi"]
    assert load_bitext(tmp_path / "x.parquet", columns=("ny", "en")).english == ["fire", "water"]
    with pytest.raises(InputError, match="no column 'sw'"):
        load_bitext(tmp_path / "x.parquet", columns=("sw", "en"))
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    parquet.write_table(pa.table({"translation": rows}), tmp_path / "set" / "train.parquet")
    assert load_bitext(f"hf:{tmp_path / 'set'}:train").foreign == ["moto", "madzi"]
    with pytest.raises(InputError, match=r"hf:.*nothing: cannot be loaded") as caught:
        load_bitext(f"hf:{tmp_path / 'nothing'}")
    assert "\n" not in str(caught.value)


def test_paths_and_short_words_for_results(collection_folder, tmp_path):
    assert isinstance(collection_folder, pathlib.Path)
    found = load_collection(collection_folder)
    assert len(repr(found)) < 200
    assert repr(found) == f"Collection('{collection_folder}', 12 queries, 12 documents)"
    assert "<th>query</th>" in found._repr_html_()
    assert found._repr_html_().count("<tr>") == 6
    assert len(stream_documents(collection_folder)) == 12
    path = tmp_path / "a.tsv"
    path.write_text("<b>\tfire & rain\n" * 100)
    bitext = load_bitext(path)
    assert repr(bitext) == f"Bitext('{path}', 100 pairs)"
    assert "<td>&lt;b&gt;</td><td>fire &amp; rain</td>" in bitext._repr_html_()


def test_ids_with_blanks_are_refused_where_they_enter(tmp_path):
    (tmp_path / "qrels").mkdir()
    corpus, queries, qrels = (
        tmp_path / "corpus.jsonl",
        tmp_path / "queries.jsonl",
        tmp_path / "qrels" / "test.tsv",
    )
    good = {
        corpus: '{"_id": "d1", "text": "x"}\n',
        queries: '{"_id": "q1", "text": "y"}\n',
        qrels: "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    }
    bad = {
        corpus: (
            '{"_id": "d1", "text": "x"}\n{"_id": "d 2", "text": "x"}\n',
            r"corpus\.jsonl:2: id: .* got 'd 2'",
        ),
        queries: ('{"_id": "q\u00a01", "text": "y"}\n', r"queries\.jsonl:1: id"),
        qrels: ("q1\td 1\t1\n", r"test\.tsv:1: id: .* got 'd 1'"),
    }
    for path, (text, message) in bad.items():
        for each, content in good.items():
            each.write_text(content, encoding="utf-8")
        assert load_collection(tmp_path).side is None
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            load_collection(tmp_path)
    (tmp_path / "d.tsv").write_text("d1\tx\nd 2\tx\n")
    with pytest.raises(InputError, match=r"d\.tsv:2: id: expected one without blanks"):
        read_texts(tmp_path / "d.tsv")
    (tmp_path / "q.txt").write_text("q1 0 d 1 1\n")
    with pytest.raises(InputError, match=r"q\.txt:1: expected 4 fields"):
        read_qrels(tmp_path / "q.txt")
    corpus.write_text('{"_id": "d1", "text": null}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl:1: text: expected a text, got None"):
        read_texts(corpus)


def test_judgments_and_runs_may_begin_with_a_mark(tmp_path):
    (tmp_path / "q").write_text(f"{BOM}q1 0 d1 1\r\n", encoding="utf-8")
    (tmp_path / "r").write_text(f"{BOM}q1 Q0 d1 1 0.5 x\r\n", encoding="utf-8")
    assert read_qrels(tmp_path / "q") == {"q1": {"d1": 1}}
    assert read_run(tmp_path / "r") == {"q1": {"d1": 0.5}}


def test_splits_of_folders(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    write("documents.tsv", "d1\tx\nd2\ty\n")
    write("queries.tsv", "q1\ta\nq2\tb\n")
    write("qrels.txt", "q1 0 d1 1\n")
    assert list(load_collection(tmp_path).queries) == ["q1"]
    for split in ("dev", "train"):
        with pytest.raises(InputError, match=f"has no '{split}'; it has test"):
            load_collection(tmp_path, split=split)
    write("qrels/dev.txt", "q2 0 d2 1\n")
    assert list(load_collection(tmp_path, split="dev").queries) == ["q2"]
    assert list(load_collection(tmp_path).queries) == ["q1"]
    both = load_collection(tmp_path, split="all")
    assert both.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}
    write("queries.train.tsv", "q3\tc\n")
    write("qrels/train.txt", "q3 0 d1 1\n")
    assert splits_of(tmp_path) == ("train", "dev", "test")
    train = load_collection(tmp_path, split="train", side="document")
    assert (train.queries, train.side) == ({"q3": "c"}, "document")


def bomb(path, name):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for ending in ("en", "sw"):
            with archive.open(f"{name}.en-sw.{ending}" if name else "x.tmx", "w") as file:
                file.write(b"" if name else b"<tmx><body><tu><tuv xml:lang='en'><seg>")
                for _ in range(100):
                    file.write(b"a" * (1 << 20))
            if not name:
                break


def test_archives_that_unpack_to_too_much_are_refused(tmp_path):
    bomb(tmp_path / "x.zip", "GNOME")
    bomb(tmp_path / "x.tmx.zip", "")
    with gzip.open(tmp_path / "x.tsv.gz", "wb") as file:
        for _ in range(100):
            file.write(b"a" * (1 << 20))
    for name in ("x.zip", "x.tmx.zip", "x.tsv.gz"):
        tracemalloc.start()
        with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
            load_bitext(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 250 << 20
    # Text that repeats itself is no bomb while it is small.
    with gzip.open(tmp_path / "y.tsv.gz", "wb") as file:
        file.write(b"moto\tfire\n" * 100_000)
    assert len(load_bitext(tmp_path / "y.tsv.gz")) == 100_000


def peak_of(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_tmx_and_sgml_are_read_in_bounded_memory(tmp_path):
    unit = (
        '<tu><tuv xml:lang="en"><seg>{0} water</seg></tuv><tuv xml:lang="sw"><seg>maji {0}</seg></tuv></tu>\n'
    )
    with open(tmp_path / "x.tmx", "w") as file:
        file.write('<tmx version="1.4"><header/><body>\n')
        file.writelines(unit.format(i) for i in range(20_000))
        file.write("</body></tmx>")
    count = 0

    def read():
        nonlocal count
        count = sum(1 for _ in tmx.units(tmp_path / "x.tmx"))

    assert peak_of(read) < 1 << 20
    assert count == 20_000
    with open(tmp_path / "x.sgml", "w") as file:
        for i in range(20_000):
            file.write(
                f"<DOC>\n<DOCNO>d{i}</DOCNO><TEXT>water {i} &amp; fire, again and again</TEXT></DOC>\n"
            )

    def read_sgml():
        nonlocal count
        count = sum(1 for _ in trec.read_sgml_documents(tmp_path / "x.sgml"))

    assert peak_of(read_sgml) < 8 << 20
    assert count == 20_000


def test_pairs_of_questions_and_passages(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": "who?", "passage": "she", "negatives": ["he", "they"], "answers": ["she"]},
        {"query": "where?", "passage": "here"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_pairs(path)
    assert (found.questions, found.passages) == (["who?", "where?"], ["she", "here"])
    assert (found.negatives, found.answers) == ([("he", "they"), ()], [("she",), ()])
    assert repr(found) == f"QuestionPassages('{path}', 2 pairs, 1 with negatives)"
    for text, message in (
        ('{"query": "a"}', r":1: no field 'passage'"),
        ('{"query": "a", "passage": null}', r":1: field 'passage': expected text, got None"),
        ('{"query": "a", "passage": " "}', r":1: the passage is empty"),
        ('{"query": "a", "passage": "b", "negatives": "c"}', r":1: field 'negatives': expected a list"),
        ('{"query": "a", "passage": "b", "answers": [1]}', r":1: field 'answers': expected a list"),
        ("", "no question–passage pairs"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_pairs(path)
    with pytest.raises(
        InputError, match=r"pairs: no folder, \.jsonl file or source 'medquat'; did you mean 'medquad'"
    ):
        load_pairs("medquat")
    with pytest.raises(InputError, match="kolibri:ny: expected question–passage pairs; kolibri has bitext"):
        load_pairs("kolibri:ny")


def test_pairs_of_a_folder_in_the_layout_of_beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) + "\n" for i in range(4))
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td3\t2\n"
    )
    found = load_pairs(tmp_path)
    assert (found.questions, found.passages) == (["one", "two"], ["text 1", "text 3"])
    assert found.negatives == [("text 2",), ()]
    with pytest.raises(InputError, match="has no 'dev'; it has train"):
        load_pairs(tmp_path, split="dev")


def test_pairs_in_the_format_of_squad(tmp_path):
    path = tmp_path / "squad.json"
    context = "One two. Three four."
    questions = [
        {"question": "what?", "answers": [{"text": "two", "answer_start": 4}]},
        {"question": "unanswerable?", "answers": [], "is_impossible": True},
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}))
    found = load_pairs(f"squad:{path}")
    assert (found.questions, found.passages, found.answers) == (["what?"], [context], [("two",)])
    path.write_text('{"data": [{}]}')
    with pytest.raises(InputError, match="expected the format of SQuAD"):
        load_pairs(f"squad:{path}")
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"squad\.json: not valid JSON"):
            load_pairs(f"squad:{path}")
