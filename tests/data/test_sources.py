"""Published collections and translation files, on small files in their true form."""

import gzip
import json
import zipfile

import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext, load_collection, stream_documents
from optical_rs.data.cache import data_folder
from optical_rs.data.sources.trec import read_sgml_documents, read_sgml_topics


def streamed(spec):
    """The documents of a source that is read as it is asked for, in two passes."""
    documents = stream_documents(spec)
    first = list(documents)
    assert list(documents) == first
    assert len(documents) == len(first)
    return dict(first)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A writer of files below the folder where files of known names are looked for."""
    monkeypatch.setenv("OPTICAL_RS_DATA", str(tmp_path / "data"))

    def write(path, content):
        target = tmp_path / "data" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        target.write_text(content, encoding="utf-8")

    return write


def test_ciral(files):
    files("ciral/ciral-yoruba/topics/topics.ciral-v1.0-yo-test-a.tsv", "1\tWho won?\n2\tNot judged\n")
    files("ciral/ciral-yoruba/qrels/qrels.ciral-v1.0-yo-test-a-pools.tsv", "1 Q0 yor#1 1\n1 Q0 yor#2 0\n")
    passages = [
        {"docid": "yor#1", "title": "Ìròyìn", "text": "Ó borí.", "url": "u"},
        {"docid": "yor#2", "title": "", "text": "Òjò rọ̀.", "url": "u"},
    ]
    files("ciral/passages-v1.0/yoruba_passages.jsonl", passages)
    found = load_collection("ciral:yoruba")
    assert found.queries == {"1": "Who won?"}
    assert found.documents == {"yor#1": "Ìròyìn Ó borí.", "yor#2": "Òjò rọ̀."}
    assert found.qrels == {"1": {"yor#1": 1, "yor#2": 0}}
    assert streamed("ciral:yoruba") == found.documents


def test_africlirmatrix(files):
    files("africlirmatrix/test/queries/topics.africlirmatrix-v1.0.en.hau.tsv", "7\tKano\n")
    files("africlirmatrix/test/qrels/qrels.africlirmatrix-v1.0.en.hau.txt", "7 0 42 6\n")
    documents = [{"id": "42", "contents": "Birnin Kano"}]
    files("africlirmatrix/africlirmatrix-v1.0-hausa/corpus.jsonl", documents)
    found = load_collection("africlirmatrix:hausa")
    assert (found.queries, found.documents) == ({"7": "Kano"}, {"42": "Birnin Kano"})
    assert found.qrels == {"7": {"42": 6}}
    assert streamed("africlirmatrix:hausa") == found.documents


def test_belebele(files):
    for code, words in (("eng_Latn", "river what"), ("swh_Latn", "mto nini")):
        passage, question = words.split()
        rows = [
            {
                "link": link,
                "question_number": n,
                "flores_passage": f"{passage} {link}",
                "question": f"{question} {n}",
            }
            for link, n in (("u1", 1), ("u1", 2), ("u2", 1))
        ]
        files(f"belebele/data/{code}.jsonl", rows)
    found = load_collection("belebele:swh_Latn")
    assert found.documents == {"p0": "river u1", "p1": "river u2"}
    assert found.queries == {"p0-1": "nini 1", "p0-2": "nini 2", "p1-1": "nini 1"}
    assert found.qrels["p0-2"] == {"p0": 1}
    other = load_collection("belebele:swh_Latn", side="document")
    assert (other.queries["p0-1"], other.documents["p1"]) == ("what 1", "mto u2")


def test_ir_datasets(tmp_path):
    library = pytest.importorskip("ir_datasets")
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    for name, text in (("docs", "d1\tthe fire\nd2\tthe rain\n"), ("queries", "q1\tmoto\nq2\tno judgment\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "qrels").write_text("q1 0 d1 1\n")
    download = {name: LocalDownload(tmp_path / name) for name in ("docs", "queries", "qrels")}
    made = Dataset(
        TsvDocs(download["docs"]), TsvQueries(download["queries"]), TrecQrels(download["qrels"], {})
    )
    library.registry.register("optical-test/tiny", made)
    found = load_collection("irds:optical-test/tiny")
    assert found.documents == {"d1": "the fire", "d2": "the rain"}
    assert (found.queries, found.qrels) == ({"q1": "moto"}, {"q1": {"d1": 1}})
    assert streamed("irds:optical-test/tiny") == found.documents
    library.registry.register("optical-test/docs", Dataset(TsvDocs(download["docs"])))
    with pytest.raises(InputError, match="optical-test/docs has no queries"):
        load_collection("irds:optical-test/docs")
    assert streamed("irds:optical-test/docs") == found.documents, "to be indexed, documents are enough"
    with pytest.raises(InputError, match="no data set 'optical-test/nothing'"):
        load_collection("irds:optical-test/nothing")


CLEF = """<DOC>
<DOCNO> SF-1 </DOCNO><DOCID>SF-1</DOCID>
<DATE>940101</DATE>
<TITLE>Fire &amp; rain</TITLE>
<TEXT>It <B>burns</B>.
And rains.</TEXT>
</DOC>
<doc><docno>SF-2</docno><p>No text tag</p></doc>
"""
CLOSED = "<top lang='sw'><num> C041 </num><SW-title> Moto </SW-title><SW-desc> Tafuta moto. </SW-desc></top>"
OPEN = "<top>\n<num> Number: 301\n<title> Topic: Fire \n<desc> Description:\nFind fires.\n<narr> Narrative:\nAny.\n</top>"


def test_sgml_of_trec(tmp_path):
    (tmp_path / "documents").mkdir()
    with gzip.open(tmp_path / "documents" / "sf.sgml.gz", "wb") as file:
        file.write(CLEF.replace("burns", "brûle").encode("latin-1"))
    (tmp_path / "topics.txt").write_text(CLOSED, encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("C041 0 SF-1 1\n")
    found = load_collection(f"trec:{tmp_path}")
    assert found.documents == {"SF-1": "Fire & rain It brûle . And rains.", "SF-2": "No text tag"}
    assert (found.queries, found.qrels) == ({"C041": "Moto"}, {"C041": {"SF-1": 1}})
    assert streamed(f"trec:{tmp_path}") == found.documents
    (tmp_path / "documents" / "again").write_text(CLEF)
    with pytest.raises(InputError, match="document 'SF-1' is repeated"):
        streamed(f"trec:{tmp_path}")
    with pytest.raises(InputError, match="to have a folder 'documents'"):
        stream_documents(f"trec:{tmp_path}/documents")
    (tmp_path / "open").write_text(OPEN)
    assert read_sgml_topics(tmp_path / "open") == {"301": "Fire"}
    assert read_sgml_topics(tmp_path / "open", ("title", "desc", "narr")) == {"301": "Fire Find fires. Any."}


def test_bad_sgml(tmp_path):
    file = tmp_path / "x"
    for text, read, message in (
        ("<DOC><TEXT>a</TEXT></DOC>", lambda: list(read_sgml_documents(file)), "document 1 has no <DOCNO>"),
        ("nothing", lambda: read_sgml_topics(file), "no <top>"),
        ("<top><title>a</title></top>", lambda: read_sgml_topics(file), "topic 1 has no number"),
        ("<top><num>1</num></top>", lambda: read_sgml_topics(file), "topic 1 has no title"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read()
    with pytest.raises(InputError, match=r"trec: expected .* to have one file 'topics…'"):
        load_collection(f"trec:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ciral:yorub", "ciral: no language 'yorub'; did you mean 'yoruba'"),
        ("africlirmatrix:fr", "africlirmatrix: no language 'fr'"),
        ("afriqa:zzz", "afriqa: no language 'zzz'"),
    ],
)
def test_unknown_languages(spec, message):
    with pytest.raises(InputError, match=message):
        load_collection(spec)


def test_what_cannot_be_reached_says_where_to_put_it(files):
    # Nothing is there, and the hub is not asked (see conftest).
    with pytest.raises(
        InputError, match=r"belebele: cannot reach data/hau_Latn\.jsonl .* put it at "
    ) as error:
        load_collection("belebele:hau_Latn")
    assert str(data_folder() / "belebele" / "data" / "hau_Latn.jsonl") in str(error.value)


def test_bad_rows_are_told(files):
    files("belebele/data/eng_Latn.jsonl", '{"link": "u"}\n')
    files("belebele/data/hau_Latn.jsonl", "nonsense\n")
    with pytest.raises(InputError, match=r"hau_Latn.jsonl:1: not valid JSON"):
        load_collection("belebele:hau_Latn")
    files("belebele/data/hau_Latn.jsonl", '{"link": "u"}\n')
    with pytest.raises(InputError, match=r"eng_Latn.jsonl:1: no field 'flores_passage'"):
        load_collection("belebele:hau_Latn")


TMX = """<?xml version="1.0"?><tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>Good  <b>day</b></seg></tuv><tuv xml:lang="sw-KE"><seg>Habari</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg/></tuv><tuv xml:lang="sw"><seg>tupu</seg></tuv></tu>
<tu><tuv xml:lang="fr"><seg>Eau</seg></tuv><tuv xml:lang="en"><seg>Water</seg></tuv><tuv xml:lang="sw"><seg>Maji</seg></tuv></tu>
</body></tmx>"""


def test_tmx(tmp_path):
    file = tmp_path / "x.tmx"
    file.write_text(TMX, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"1 row was skipped, as a side is empty: unit 2 \(english\)"):
        found = load_bitext(str(file), columns=("sw", "en"))
    assert (found.foreign, found.english) == (["Habari", "Maji"], ["Good day", "Water"])
    assert found.skipped == 1
    with gzip.open(tmp_path / "x.tmx.gz", "wb") as packed:
        packed.write(TMX.encode())
    with zipfile.ZipFile(tmp_path / "x.tmx.zip", "w") as packed:
        packed.writestr("x.tmx", TMX)
    for name in ("x.tmx.gz", "x.tmx.zip"):
        with pytest.warns(UserWarning, match="1 row was skipped"):
            assert load_bitext(tmp_path / name).foreign == ["Habari", "Eau"]
    with pytest.raises(InputError, match="expected units in English and ha, got en, fr, sw"):
        load_bitext(str(file), columns=("ha", "en"))
    file.write_text(TMX[:80])
    with pytest.raises(InputError, match="not valid XML"):
        load_bitext(str(file))


PO = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Good day"
msgstr "Habari"

#, fuzzy
msgid "Water"
msgstr "Moto"

msgid "Fire"
msgstr ""
"""
XLIFF = """<?xml version="1.0"?><xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"><file
original="x" source-language="en" target-language="sw" datatype="plaintext"><body>
<trans-unit id="1" approved="yes"><source>Good day</source><target>Habari</target></trans-unit>
<trans-unit id="2"><source>Fire</source></trans-unit></body></file></xliff>"""


@pytest.mark.parametrize(("name", "text"), [("x.po", PO), ("x.xlf", XLIFF), ("x.xliff", XLIFF)])
def test_translation_files(tmp_path, name, text):
    pytest.importorskip("translate")
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = load_bitext(str(tmp_path / name))
    assert (found.foreign, found.english) == (["Habari"], ["Good day"])
    (tmp_path / name).write_text("<not>", encoding="utf-8")
    with pytest.raises(InputError, match=name):
        load_bitext(str(tmp_path / name))


def test_archives_of_opus(tmp_path):
    file = tmp_path / "sw-en.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("GNOME.en-sw.en", "Good day\nWater\n")
        archive.writestr("GNOME.en-sw.sw", "Habari\nMaji\n")
        archive.writestr("README", "about")
    found = load_bitext(str(file))
    assert (found.foreign, found.english) == (["Habari", "Maji"], ["Good day", "Water"])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("README", "about")
    with pytest.raises(InputError, match=r"expected two files NAME.en and NAME.xx, got README"):
        load_bitext(str(file))
    file.write_text("no archive")
    with pytest.raises(InputError, match="not a zip archive"):
        load_bitext(str(file))


def test_missing_files(tmp_path):
    for name in ("x.tmx", "x.po", "x.zip"):
        with pytest.raises(InputError, match="no such file"):
            load_bitext(str(tmp_path / name))
