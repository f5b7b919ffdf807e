"""SGML of TREC and CLEF: documents, topics, and hostile text."""

import gzip

import pytest
from optical_rs import InputError
from optical_rs.data import load_collection, stream_documents
from optical_rs.data.sources import trec
from optical_rs.data.sources.trec import read_sgml_documents, read_sgml_topics

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
    documents = stream_documents(f"trec:{tmp_path}")
    assert dict(documents) == dict(documents) == found.documents
    (tmp_path / "documents" / "again").write_text(CLEF)
    with pytest.raises(InputError, match="document 'SF-1' is repeated"):
        list(stream_documents(f"trec:{tmp_path}"))
    with pytest.raises(InputError, match="to have a folder 'documents'"):
        stream_documents(f"trec:{tmp_path}/documents")
    (tmp_path / "open").write_text(OPEN)
    assert read_sgml_topics(tmp_path / "open") == {"301": "Fire"}
    assert read_sgml_topics(tmp_path / "open", ("title", "desc", "narr")) == {"301": "Fire Find fires. Any."}


def test_bad_sgml(tmp_path):
    file = tmp_path / "x"
    for text, read, message in (
        ("<DOC><TEXT>a</TEXT></DOC>", lambda: list(read_sgml_documents(file)), "document 1 has no <DOCNO>"),
        (
            "<DOC><DOCNO>a</DOCNO>one <DOC><DOCNO>b</DOCNO>two</DOC>",
            lambda: list(read_sgml_documents(file)),
            "<DOC> 1 has no </DOC> before the next <DOC>",
        ),
        (
            "<DOC><DOCNO>a</DOCNO>one</DOC><DOC><DOCNO>b</DOCNO>two",
            lambda: list(read_sgml_documents(file)),
            "<DOC> 2 has no </DOC> before the end of the file",
        ),
        (
            "<DOC><DOCNO>a<TEXT>one</TEXT></DOC>",
            lambda: list(read_sgml_documents(file)),
            "document 1 has no </DOCNO>",
        ),
        ("nothing", lambda: read_sgml_topics(file), "no <top>"),
        ("nothing", lambda: list(read_sgml_documents(file)), "x: no <DOC>"),
        ("", lambda: list(read_sgml_documents(file)), "x: no <DOC>"),
        (
            "<top><num>1<title>a\n<top><num>2<title>b</top>",
            lambda: read_sgml_topics(file),
            "<top> 1 has no </top> before the next <top>",
        ),
        (
            "<top><num>1<title>a</top><top><num>1<title>b</top>",
            lambda: read_sgml_topics(file),
            "topic 2: number '1' is repeated",
        ),
        ("<top><title>a</title></top>", lambda: read_sgml_topics(file), "topic 1 has no number"),
        ("<top><num>1</num></top>", lambda: read_sgml_topics(file), "topic 1 has no title"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read()
    file.write_text("<DOC><DOCNO>a</DOCNO>one</DOC>", encoding="utf-16")
    with pytest.raises(InputError, match="expected UTF-8 or Latin-1, got UTF-16"):
        list(read_sgml_documents(file))
    with pytest.raises(InputError, match=r"trec: expected .* to have one file 'topics…'"):
        load_collection(f"trec:{tmp_path}")


@pytest.mark.parametrize(
    "text",
    [
        "<DOC><DOCNO>d</DOCNO>" + "<TEXT>" * 200_000 + "</DOC>",
        "<DOC><DOCNO>d</DOCNO>" + "<" * 500_000 + "</DOC>",
        "<DOC><DOCNO>d</DOCNO><TEXT>" + "<a" * 300_000 + "</TEXT></DOC>",
        "<DOC><DOCNO>d</DOCNO><TEXT><" + "a" * 500_000 + "</TEXT></DOC>",
        "<DOC><DOCNO>d</DOCNO><TEXT>" + "<" + " " * 500_000 + "</TEXT></DOC>",
        "<DOC" * 300_000,
    ],
)
def test_hostile_sgml_takes_linear_time(tmp_path, text):
    import time

    (tmp_path / "x").write_text(text)
    start = time.process_time()  # also on a machine with other work
    if text.startswith("<DOC>"):
        assert len(list(trec.read_sgml_documents(tmp_path / "x"))) == 1
    else:
        with pytest.raises(InputError, match="no <DOC>"):
            list(trec.read_sgml_documents(tmp_path / "x"))
    assert time.process_time() - start < 5


def test_a_folder_without_documents_is_an_error(tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "topics.txt").write_text(CLOSED, encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("C041 0 SF-1 1\n")
    for read in (
        lambda: list(stream_documents(f"trec:{tmp_path}")),
        lambda: load_collection(f"trec:{tmp_path}"),
    ):
        with pytest.raises(InputError, match="documents to have SGML files, got none"):
            read()
    (tmp_path / "documents" / ".hidden").write_text("not looked at")
    (tmp_path / "documents" / "a.sgml").write_text(CLEF)
    assert len(load_collection(f"trec:{tmp_path}").documents) == 2
    # Such as one that is packed in another way, whose documents would be missing.
    (tmp_path / "documents" / "b.sgml.Z").write_bytes(b"\x1f\x9d\x90")
    for read in (
        lambda: list(stream_documents(f"trec:{tmp_path}")),
        lambda: load_collection(f"trec:{tmp_path}"),
    ):
        with pytest.raises(InputError, match=r"b\.sgml\.Z: no <DOC>"):
            read()


def test_a_document_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(trec, "LARGEST", 1 << 20)
    (tmp_path / "x").write_text("<DOC><DOCNO>d</DOCNO>" + "water " * (1 << 19))
    with pytest.raises(InputError, match=r"x: <DOC> 1 has no </DOC> within 1 MiB"):
        list(trec.read_sgml_documents(tmp_path / "x"))


def test_documents_across_pieces(tmp_path, monkeypatch):
    text = "".join(f"<doc><DOCNO>d{i}</DOCNO><TEXT>wáter {i} <B>x</B></TEXT></DOC >\n" for i in range(50))
    (tmp_path / "x").write_text(text.replace(" >", ">"), encoding="utf-8")
    whole = list(trec.read_sgml_documents(tmp_path / "x"))
    assert len(whole) == 50
    assert whole[7] == ("d7", "wáter 7 x")
    for size in (1, 2, 7, 64, 1000):
        monkeypatch.setattr(trec, "_PIECE", size)
        assert list(trec.read_sgml_documents(tmp_path / "x")) == whole
