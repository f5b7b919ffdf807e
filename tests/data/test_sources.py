"""Published sources and translation files, on small files in their publishers' layout."""

import hashlib
import json
import zipfile

import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext, load_collection, load_pairs, stream_documents, verify
from optical_rs.data.cache import data_folder
from optical_rs.data.sources import SOURCES


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


def test_directions(files):
    """English queries over African documents are never turned round in silence."""
    for spec in ("ciral:yoruba", "africlirmatrix:hausa", "irds:wikiclir/sw", "irds:neuclir/1/fa/trec-2022"):
        with pytest.raises(
            InputError,
            match=f"side: {spec} has English queries and foreign documents; expected side 'document', got 'query'",
        ):
            load_collection(spec, side="query")
    with pytest.raises(InputError, match="side: irds:clirmatrix/en/bi139-base/yo/test1 has foreign queries"):
        load_collection("irds:clirmatrix/en/bi139-base/yo/test1", side="document")


def test_splits_that_sources_lack(files, tmp_path):
    for spec, split, have in (
        ("belebele:swh_Latn", "dev", "test"),
        ("africlirmatrix:hausa", "dev", "test"),
        ("irds:mmarco/v2/fr/dev/small", "dev", "test"),
        (f"trec:{tmp_path}", "dev", "test"),
        ("ciral:hausa", "train", "dev, test, test-b"),
        ("afriqa:swa", "train", "test"),
        ("afriqa:yor", "dev", "train, test"),
        ("menyo:news", "train", "dev, test"),
        ("ntrex:hau", "dev", "test"),
    ):
        with pytest.raises(InputError, match=f"split: {spec} has no '{split}'; it has {have}"):
            load_collection(spec, split=split)
    for spec, have in (
        *(("ntrex:hau", "test"), ("flores:hau_Latn", "dev, test"), ("mafand:nya", "dev, test")),
        ("afriqa:swa", "none$"),
    ):
        with pytest.raises(InputError, match=f"split: {spec} has no 'train'; it has {have}"):
            load_bitext(spec)
        with pytest.raises(InputError, match=f"split: {spec} is for tests alone; it has {have}"):
            load_bitext(spec, split="all")
    with pytest.raises(InputError, match="belebele:hau_Latn: expected bitext; belebele has a collection"):
        load_bitext("belebele:hau_Latn")
    with pytest.raises(InputError, match="medquad: expected a collection; medquad has question"):
        load_collection("medquad")


def question(number, context, **more):
    return {
        **{"id": str(number), "context": context, "question_lang": f"Je, {number}?"},
        **{"question_translated": f"Is it {number}?", "answer_lang": "ndiyo", **more},
    }


def test_afriqa(files):
    stem = "afriqa/data/gold_passages/{0}/gold_span_passages.afriqa.{0}.en.{1}.json"
    files(stem.format("hau", "train"), [question(1, "A"), question(2, None), question(3, None)])
    files(stem.format("hau", "dev"), [question(1, "B"), question(2, None)])
    files(
        stem.format("hau", "test"), [question(1, "A"), question(2, "C"), question(3, None), question(4, " ")]
    )
    files(stem.format("swa", "test"), [question(1, "C"), question(2, "D")])
    found = load_collection("afriqa:hau")
    assert found.documents == {"p0": "A", "p1": "B", "p2": "C"}
    assert found.queries == {"test-1": "Je, 1?", "test-2": "Je, 2?"}
    assert found.qrels == {"test-1": {"p0": 1}, "test-2": {"p2": 1}}
    assert (found.side, found.skipped) == ("query", 2)
    assert list(load_collection("afriqa:hau", split="dev").queries) == ["dev-1"]
    assert load_collection("afriqa:hau", split="all").skipped == 5
    swahili = load_collection("afriqa:swa")
    assert swahili.documents == {"p0": "C", "p1": "D"}
    pool = load_collection("afriqa:hau+swa/translated")
    assert pool.documents == {"hau/p0": "A", "hau/p1": "B", "hau/p2": "C", "swa/p0": "D"}
    assert pool.qrels == {
        "hau/test-1": {"hau/p0": 1},
        "hau/test-2": {"hau/p2": 1},
        "swa/test-1": {"hau/p2": 1},
        "swa/test-2": {"swa/p0": 1},
    }
    assert pool.queries["swa/test-2"] == "Is it 2?"
    wider = load_collection("afriqa:swa@hau+swa")
    assert (wider.documents, wider.queries.keys()) == (pool.documents, {"swa/test-1", "swa/test-2"})
    files(stem.format("swa", "test"), [question(1, 3)])
    with pytest.raises(InputError, match=r"test\.json:1: field 'context': expected text, got 3"):
        load_collection("afriqa:swa")
    files(stem.format("swa", "test"), [question("1 a", "C")])
    with pytest.raises(InputError, match=r"test\.json:1: id: .* got '1 a'"):
        load_collection("afriqa:swa")


def test_afriqa_pairs_leave_out_passages_of_tests(files, monkeypatch):
    from optical_rs.data.sources import afriqa

    stem = "afriqa/data/gold_passages/hau/gold_span_passages.afriqa.hau.en.{}.json"
    unasked = question(4, None, question_translated=float("nan"))
    files(
        stem.format("train"),
        [question(1, "Seen in a test."), question(2, "Free"), question(3, None), unasked],
    )
    known = frozenset({afriqa.digest("seen in a TEST")})
    monkeypatch.setattr(afriqa, "passages_of_tests", lambda: known)
    found = load_pairs("afriqa:hau")
    assert (found.questions, found.passages) == (["Is it 2?"], ["Free"])


def test_mafand(files):
    texts = "lafand-mt/data/text_files/en-hau"
    for split, words in (("train", "Seen before."), ("dev", "d"), ("test", "t")):
        files(f"{texts}/{split}.en", f"{words}\nB {split}\n")
        files(f"{texts}/{split}.hau", f"a\nb {split}\n")
    files(
        "lafand-mt/data/json_files/en-hau/train.json",
        [{"translation": {"en": "Photo, by her", "hau": "hoto"}}] * 2,
    )
    articles = "eng\thau\nFirst news \tlabari\nseen  before\tan gani\n\t \n\nPhoto by her\thoto\nSecond\t\n\n"
    files("lafand-mt/data/doc_level_tsv/eng-hau/test.tsv", f"{articles}Third\tna uku\nPhoto by her.\tHoto\n")
    assert load_bitext("mafand:hau").english == ["Seen before.", "B train"]
    assert load_bitext("mafand:hau", split="dev").foreign == ["a", "b dev"]
    assert len(load_bitext("mafand:hau", split="all")) == 6
    assert load_bitext("mafand:hau/json").foreign == ["hoto", "hoto"]
    found = load_collection("mafand:hau")
    assert found.documents == {
        "test-0": "First news seen before",
        "test-1": "Photo by her Second",
        "test-2": "Third Photo by her.",
    }
    # What training has is not asked for; a sentence of two articles is one query.
    assert found.queries == {"test-0.0": "labari", "test-1.0": "hoto", "test-2.0": "na uku"}
    assert found.qrels["test-1.0"] == {"test-1": 1, "test-2": 1}
    assert found.skipped == 1
    assert load_collection("mafand:hau", side="document").queries["test-0.0"] == "First news"
    assert "test-1.0" not in load_collection("mafand:hau/json").queries


def test_menyo(files):
    files("menyo-20k_MT/data/train.tsv", 'English\tYoruba\n"Say ""it"" now"\t"Sọ ""ọ"""\n')
    # As published: one file begins with a pair.
    files("menyo-20k_MT/data/dev_book.tsv", "A book\tÌwé kan\nSay it now!\tSọ ọ́\n")
    files("menyo-20k_MT/data/test_book.tsv", "english\tyoruba\nRain\tÒjò\n")
    train = load_bitext("menyo")
    assert (train.foreign, train.english) == (['Sọ "ọ"'], ['Say "it" now'])
    assert load_bitext("menyo:book", split="dev").foreign == ["Ìwé kan", "Sọ ọ́"]
    found = load_collection("menyo:book", split="dev")
    assert found.queries == {"dev-0": "Ìwé kan"}
    assert found.documents == {"dev-0": "A book", "dev-1": "Say it now!", "test-0": "Rain"}
    # The dev part of a domain as training text: what it contains is not asked.
    files("menyo-20k_MT/data/test_book.tsv", "english\tyoruba\nRain\tÒjò\nA book.\tÌwé\n")
    assert load_bitext("menyo:book/dev").foreign == ["Ìwé kan", "Sọ ọ́"]
    assert load_collection("menyo:book/dev").queries == {"test-0": "Òjò"}
    assert load_collection("menyo:book").queries.keys() == {"test-0", "test-1"}
    for rest in ("book/test", "/dev"):
        with pytest.raises(InputError, match=f"menyo: no variant '{rest}'; expected a domain such as news"):
            load_bitext(f"menyo:{rest}")
    files("menyo-20k_MT/data/test_book.tsv", "english\tyoruba\nRain\n")
    with pytest.raises(InputError, match=r"test_book\.tsv:2: expected English and Yoruba, got 1 columns"):
        load_bitext("menyo:book", split="test")


def test_tico(files, tmp_path):
    unit = '<tu tuid="{}"><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="sw"><seg>{}</seg></tuv></tu>'
    rows = [("CMU_1:1", "fire", "moto"), ("PubMed_7:2", "water", "maji"), ("wiki_4:3", "rain", "mvua")]
    rows += [("PubMed_7:4", "Fire!", "Moto!")]
    body = "".join(unit.format(*row) for row in rows)
    files("tico-19/data/TM/x", "")
    with zipfile.ZipFile(tmp_path / "data/tico-19/data/TM/all.en-sw.tmx.zip", "w") as archive:
        archive.writestr("all.en-sw.tmx", f'<tmx version="1.4"><header/><body>{body}</body></tmx>')
    assert load_bitext("tico:sw").english == ["fire"]
    assert load_bitext("tico:sw", split="test").foreign == ["maji", "Moto!"]
    found = load_collection("tico:sw")
    assert found.queries == {"PubMed_7:2": "maji"}
    assert found.documents == {"CMU_1:1": "fire", "PubMed_7:2": "water", "wiki_4:3": "rain"}
    with pytest.raises(InputError, match="tico: no language 'xx'"):
        load_bitext("tico:xx")


def test_ntrex_and_flores(files):
    files("NTREX/NTREX-128/newstest2019-src.eng.txt", "Rain\r\nFire\r\n")
    files("NTREX/NTREX-128/newstest2019-ref.hau.txt", "Ruwa\r\nWuta\r\n")
    assert load_bitext("ntrex:hau", split="test").foreign == ["Ruwa", "Wuta"]
    found = load_collection("ntrex:hau", side="document")
    assert (found.queries, found.documents) == ({"s0": "Rain", "s1": "Fire"}, {"s0": "Ruwa", "s1": "Wuta"})
    for folder in ("dev", "devtest"):
        files(f"flores200_dataset/{folder}/eng_Latn.{folder}", f"Rain {folder}\n")
        files(f"flores200_dataset/{folder}/hau_Latn.{folder}", f"Ruwa {folder}\n")
    assert load_bitext("flores:hau_Latn", split="test").english == ["Rain devtest"]
    found = load_collection("flores:hau_Latn", split="dev")
    assert (found.queries, len(found.documents)) == ({"dev-0": "Ruwa dev"}, 2)
    with pytest.raises(
        InputError, match=r"flores200_dataset: no file dev/xxx_Latn\.dev; get https://.*put it at"
    ):
        load_bitext("flores:xxx_Latn", split="dev")


def test_english_pairs(files):
    files(
        "MedQuAD/1_CancerGov_QA/1.xml",
        "<Document><QAPairs><QAPair><Question>What is\n it ?</Question><Answer>A disease.</Answer></QAPair>"
        "<QAPair><Question>And this?</Question><Answer/></QAPair></QAPairs></Document>",
    )
    assert load_pairs("medquad").questions == ["What is it ?"]
    files("QED/qed-dev.jsonlines", [{"question_text": "who", "paragraph_text": "she", "annotation": {}}])
    assert load_pairs("qed").passages == ["she"]
    files("pubmedqa/data/ori_pqal.json", [{"1": {"QUESTION": "Does it?", "CONTEXTS": ["Yes.", "It does."]}}])
    assert load_pairs("pubmedqa").passages == ["Yes. It does."]
    article = " ".join(f"Sentence {i} says a thing." for i in range(200))
    answer = [{"text": "Sentence 100", "answer_start": article.index("Sentence 100")}]
    squad = {
        "data": [{"paragraphs": [{"context": article, "qas": [{"question": "100?", "answers": answer}]}]}]
    }
    files("COVID-QA/data/question-answering/200423_covidQA.json", [squad])
    passage = load_pairs("covid-qa").passages[0]
    assert "Sentence 100 " in passage
    assert passage.endswith("thing.")
    assert 150 <= len(passage.split()) < 160


def test_files_that_are_not_there_say_what_to_get(files):
    with pytest.raises(
        InputError, match=r"MedQuAD: no folder .*; clone https://github.com/abachaa/MedQuAD there"
    ):
        load_pairs("medquad")


class Answer:
    """What urlopen returns."""

    def __init__(self, content):
        self.content = content

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def read(self):
        return self.content


def test_downloads_are_verified(files, monkeypatch):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return Answer(b"another file")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(
        InputError, match=r"QED: https://.*qed-dev\.jsonlines is not the file that was pinned"
    ):
        load_pairs("qed")
    revision = "2492920337122918bbfc7d12c1268b9af796c6cf"
    assert asked == [
        f"https://raw.githubusercontent.com/google-research-datasets/QED/{revision}/qed-dev.jsonlines"
    ]
    assert verify("qed") == {"QED/qed-dev.jsonlines": "missing"}
    content = b'{"question_text": "who", "paragraph_text": "she"}\n'
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr("optical_rs.data.sources.source.checksums", lambda: {"QED/qed-dev.jsonlines": digest})
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Answer(content))
    assert load_pairs("qed").questions == ["who"]
    assert verify("qed") == {"QED/qed-dev.jsonlines": "as pinned"}
    # It is there now: it is not asked for again, whatever it holds.
    monkeypatch.setattr("urllib.request.urlopen", None)
    files("QED/qed-dev.jsonlines", [{"question_text": "my own", "paragraph_text": "checkout"}])
    assert load_pairs("qed").questions == ["my own"]
    assert verify("qed") == {"QED/qed-dev.jsonlines": "differs"}
    with pytest.raises(InputError, match="no source 'quad'"):
        verify("quad")
    with pytest.raises(InputError, match="belebele: none of its files has a pinned checksum"):
        verify("belebele")


def test_declarations_are_whole():
    for name, source in SOURCES.items():
        assert name == source.name == source.spelling.partition(":")[0]
        assert source.bitext or source.collection or source.pairs
        assert source.licence
        assert source.repositories or source.getting
        for repository in source.repositories:
            pinned = repository.pinned()
            assert repository.host != "github" or (len(repository.revision) == 40 and pinned)
    assert {
        name for name, source in SOURCES.items() if source.collection and not source.collection.sides
    } == {"trec"}


def test_a_folder_that_is_called_like_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "menyo").mkdir()
    for name, text in (("documents.tsv", "d\tx\n"), ("queries.tsv", "q\ty\n"), ("qrels.txt", "q 0 d 1\n")):
        (tmp_path / "menyo" / name).write_text(text)
    assert load_collection("menyo").queries == {"q": "y"}


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
    # Longer than Python's reader of CSV takes a field to be.
    long = "ọ" * ((1 << 17) + 1)
    files("menyo-20k_MT/data/test_book.tsv", f"english\tyoruba\nRain\t{long}\n")
    with pytest.raises(InputError, match=r"test_book.tsv:2: cannot be divided into columns"):
        load_bitext("menyo:book", split="test")
    files("lafand-mt/data/text_files/en-yor/train.en", "rain\n")
    files("lafand-mt/data/text_files/en-yor/train.yor", "òjò\n")
    files("lafand-mt/data/doc_level_tsv/eng-yor/dev.tsv", f"eng\tyor\nRain\t{long}\n")
    with pytest.raises(InputError, match=r"dev.tsv:2: cannot be divided into columns"):
        load_collection("mafand:yor", split="dev")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [{"paragraphs": [{"context": "a", "qas": ["who?"]}]}]}', "expected the format of SQuAD"),
        ('{"data": [{"paragraphs": ["a"]}]}', "no field 'context'"),
        ('{"data": ["a"]}', "expected the format of SQuAD"),
        ("[1]", "expected the format of SQuAD"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": [{"text": NaN}]}]}]}]}',
            "field 'text': expected text, got nan",
        ),
    ],
)
def test_what_is_not_of_squad_is_told(tmp_path, content, message):
    (tmp_path / "squad.json").write_text(content)
    with pytest.raises(InputError, match=rf"squad\.json.*{message}"):
        load_pairs(f"squad:{tmp_path / 'squad.json'}")
