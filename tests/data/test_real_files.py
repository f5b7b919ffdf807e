"""Every loader on its publisher's files: exact counts, first rows, splits. Skipped where the files are not there."""

import os
import pathlib

import pytest
from optical_rs import InputError
from optical_rs.data import load_bitext, load_collection, load_pairs, verify
from optical_rs.data.sources import SOURCES
from optical_rs.data.sources.afriqa import digest, passages_of_tests, questions_of_tests
from optical_rs.data.sources.known_item import normal

FOLDER = pathlib.Path(os.environ.get("OPTICAL_RS_DATA", "/nowhere"))


def needs(name):
    """The test needs the source's folder."""
    folders = {repository.folder for repository in SOURCES[name].repositories}
    there = all((FOLDER / folder).is_dir() for folder in folders)
    return pytest.mark.skipif(not there, reason=f"$OPTICAL_RS_DATA has no {', '.join(folders)}")


SIX = "hau+ibo+swa+twi+yor+zul"


@needs("afriqa")
@pytest.mark.parametrize(
    ("language", "questions", "passages", "splits", "skipped"),
    [
        ("hau", 300, 705, {"train": 223, "dev": 222}, 0),
        ("ibo", 409, 845, {"train": 305, "dev": 307}, 0),
        ("swa", 295, 289, {}, 0),
        ("twi", 486, 1072, {"train": 351, "dev": 348}, 0),
        ("yor", 253, 499, {"train": 247}, 1),
        ("zul", 325, 732, {"train": 242, "dev": 242}, 0),
    ],
)
def test_afriqa(language, questions, passages, splits, skipped):
    found = load_collection(f"afriqa:{language}")
    assert (len(found.queries), len(found.documents), found.skipped) == (questions, passages, skipped)
    assert found.side == "query"
    assert all(list(judged.values()) == [1] for judged in found.qrels.values())
    assert all(text.strip() and text != "None" for text in found.documents.values())
    for split in ("train", "dev"):
        if split in splits:
            assert len(load_collection(f"afriqa:{language}", split=split).queries) == splits[split]
        else:
            with pytest.raises(InputError, match=f"split: afriqa:{language} has no '{split}'; it has "):
                load_collection(f"afriqa:{language}", split=split)
    assert len(load_collection(f"afriqa:{language}", split="all").queries) == questions + sum(splits.values())


@needs("afriqa")
def test_afriqa_first_question_and_its_translation():
    foreign, english = load_collection("afriqa:hau"), load_collection("afriqa:hau/translated")
    assert foreign.queries.keys() == english.queries.keys()
    assert (foreign.documents, foreign.qrels) == (english.documents, english.qrels)
    first = next(iter(foreign.queries))
    assert foreign.queries[first] == "Awane yanki jahar Anambra take a Nijeriya?"
    assert english.queries[first] == "What region is Anambra State in Nigeria?"
    assert "Anambra" in foreign.documents[next(iter(foreign.qrels[first]))]
    assert english.side is None
    with pytest.raises(InputError, match="side: afriqa:hau has foreign queries and English documents"):
        load_collection("afriqa:hau", side="document")


@needs("afriqa")
def test_afriqa_pools():
    pool, one = load_collection(f"afriqa:{SIX}"), load_collection(f"afriqa:hau@{SIX}")
    assert (len(pool.queries), len(pool.documents), pool.skipped) == (2068, 3997, 1)
    assert len(one.queries) == 300
    assert one.documents == pool.documents
    assert all(pool.queries[q] == text and pool.qrels[q] == one.qrels[q] for q, text in one.queries.items())
    assert {name.partition("/")[0] for name in pool.queries} == set(SIX.split("+"))
    alone = load_collection("afriqa:hau")
    for query, judged in one.qrels.items():
        passage = next(iter(alone.qrels[query.removeprefix("hau/")]))
        assert pool.documents[next(iter(judged))] == alone.documents[passage]
    for spec, message in (
        ("afriqa:hau@ibo", "the passages of hau are not in the pool 'ibo'"),
        ("afriqa:hau+fon", "expected passages in one language, got en and fr"),
        ("afriqa:hau+xx", "no language 'xx'"),
        ("afriqa:hau/englisch", "expected afriqa:LANGUAGE or afriqa:LANGUAGE/translated"),
    ):
        with pytest.raises(InputError, match=message):
            load_collection(spec)
    with pytest.raises(InputError, match=r"split: afriqa:.* has no 'dev'; it has test"):
        load_collection(f"afriqa:{SIX}", split="dev")


@needs("afriqa")
def test_afriqa_trains_teachers_without_passages_of_tests():
    of_tests = set()
    for language in SIX.split("+"):
        found = load_collection(f"afriqa:{language}")
        of_tests |= {normal(found.documents[d]) for judged in found.qrels.values() for d in judged}
    assert set(map(digest, of_tests)) <= passages_of_tests()
    train, dev = load_pairs("afriqa:hau"), load_pairs("afriqa:hau", split="dev")
    assert (len(train), len(dev)) == (201, 200)
    assert len(load_pairs("afriqa:hau+ibo+twi+zul", split="all")) == 1924
    assert not {normal(p) for p in load_pairs("afriqa:hau+ibo+twi+yor+zul").passages} & of_tests
    with pytest.raises(InputError, match="split: afriqa:hau has no 'test'; it has train, dev"):
        load_pairs("afriqa:hau", split="test")


@needs("afriqa")
def test_afriqa_questions_and_their_translations_are_bitext_without_those_of_tests():
    train, every = load_bitext("afriqa:hau"), load_bitext("afriqa:hau", split="all")
    assert (len(train), len(every)) == (203, 406)
    asked = load_collection("afriqa:hau", split="train").queries.values()
    # Two questions have no passage, but a translation.
    assert len(set(train.foreign) - set(asked)) == 2
    # Not as a question, nor as a translation, in any language.
    tested = set()
    for language in SIX.split("+"):
        for spec in (f"afriqa:{language}", f"afriqa:{language}/translated"):
            tested |= {digest(question) for question in load_collection(spec).queries.values()}
    assert tested <= questions_of_tests()
    for language, size in {"hau": 203, "ibo": 241, "twi": 324, "yor": 241, "zul": 209}.items():
        found = load_bitext(f"afriqa:{language}")
        assert len(found) == size
        assert not {digest(text) for text in [*found.foreign, *found.english]} & tested
    with pytest.raises(InputError, match="split: afriqa:hau has no 'test'; it has train, dev"):
        load_bitext("afriqa:hau", split="test")
    # Train and dev as training text; Yoruba has no dev, and one row of Twi's has no question.
    for language, size in {"hau": 406, "ibo": 488, "twi": 648, "yor": 241, "zul": 423}.items():
        everything = load_bitext(f"afriqa:{language}/all")
        assert len(everything) == size
        assert not {digest(text) for text in [*everything.foreign, *everything.english]} & tested
        assert (
            everything.foreign[: len(load_bitext(f"afriqa:{language}"))]
            == load_bitext(f"afriqa:{language}").foreign
        )
    with pytest.raises(InputError, match="split: afriqa:hau/all has no 'dev'; it has train"):
        load_bitext("afriqa:hau/all", split="dev")
    with pytest.raises(InputError, match="got 'afriqa:hau/all'"):
        load_collection("afriqa:hau/all")
    with pytest.raises(InputError, match="split: afriqa:swa has no 'train'"):
        load_bitext("afriqa:swa")
    with pytest.raises(InputError, match="expected afriqa:LANGUAGE, which has the translations"):
        load_bitext("afriqa:hau/translated")


@needs("mafand")
@pytest.mark.parametrize(
    ("language", "sizes", "first"),
    [
        ("hau", {"train": 3098, "dev": 1300, "test": 1500}, None),
        ("hau/json", {"train": 5865, "dev": 1300, "test": 1500}, "#FreeAmade: Journalist arrested"),
        ("ibo", {"train": 6998, "dev": 1500, "test": 1500}, None),
        ("nya", {"dev": 483, "test": 1004}, None),
        ("swa", {"train": 30782, "dev": 1791, "test": 1835}, None),
        ("twi", {"train": 3337, "dev": 1284, "test": 1500}, None),
        ("yor", {"train": 6644, "dev": 1544, "test": 1558}, None),
        ("zul", {"train": 3500, "dev": 1239, "test": 998}, None),
    ],
)
def test_mafand_bitext(language, sizes, first):
    for split in ("train", "dev", "test"):
        if split not in sizes:
            with pytest.raises(
                InputError, match=f"split: mafand:{language} has no '{split}'; it has dev, test"
            ):
                load_bitext(f"mafand:{language}", split=split)
            continue
        found = load_bitext(f"mafand:{language}", split=split)
        assert (len(found), found.skipped) == (sizes[split], 0)
    if "train" not in sizes:
        # Test is never reached by asking for everything.
        with pytest.raises(InputError, match="is for tests alone"):
            load_bitext(f"mafand:{language}", split="all")
    if first:
        assert load_bitext(f"mafand:{language}").english[0].startswith(first)


@needs("mafand")
@pytest.mark.parametrize(
    ("language", "split", "queries", "articles"),
    [
        ("hau", "test", 1880, 43),
        ("nya", "dev", 498, 108),
        ("nya", "test", 1010, 108),
        ("yor", "dev", 1543, 249),
        ("yor", "test", 1524, 249),
    ],
)
def test_mafand_articles(language, split, queries, articles):
    found = load_collection(f"mafand:{language}", split=split)
    assert (len(found.queries), len(found.documents)) == (queries, articles)
    assert found.side == "query"
    assert all(judged and judged.keys() <= found.documents.keys() for judged in found.qrels.values())
    turned = load_collection(f"mafand:{language}", split=split, side="document")
    assert len(turned.documents) == articles
    train = load_bitext(f"mafand:{language}").english if language != "nya" else []
    assert not {normal(text) for text in turned.queries.values()} & {normal(text) for text in train}
    # An English sentence is found in the English article that it is judged to be of.
    for query, text in list(turned.queries.items())[:50]:
        for article in turned.qrels[query]:
            assert normal(text) in normal(found.documents[article])


@needs("mafand")
def test_mafand_refuses_what_it_lacks():
    for spec, split, message in (
        ("mafand:hau", "dev", "split: mafand:hau has no 'dev'; it has test"),
        ("mafand:ibo", "test", "mafand: no articles in 'ibo'; expected one of: hau, "),
        ("mafand:xx", "test", "mafand: no language 'xx'"),
        ("mafand:ibo/json", "test", "mafand: no variant 'ibo/json'; expected hau/json"),
    ):
        with pytest.raises(InputError, match=message):
            load_collection(spec, split=split)
    # Nearly all Hausa articles are in the larger training file.
    assert len(load_collection("mafand:hau/json").queries) == 21


@needs("menyo")
def test_menyo():
    sizes = {"train": 10070, "dev": 3397, "test": 6633}
    for split, size in sizes.items():
        assert len(load_bitext("menyo", split=split)) == size
    assert len(load_bitext("menyo", split="all")) == sum(sizes.values())
    found = load_bitext("menyo")
    assert (found.foreign[0], found.english[0]) == (
        "Ìdá 1: Kín ni Creative Commons?",
        "Unit 1: What is Creative Commons?",
    )
    assert not any('""' in text for text in found.english)
    domains = {"book": (1006, 1008), "digital": (312, 273), "news": (1391, 3102), "proverbs": (250, 250)}
    for domain, (dev, test) in (domains | {"tedTalks": (438, 2000)}).items():
        got = load_bitext(f"menyo:{domain}", split="dev")
        assert (len(got), len(load_bitext(f"menyo:{domain}", split="test"))) == (dev, test)
        # English is never taken for Yoruba, whose words are full of marks.
        assert sum(not text.isascii() for text in got.foreign) > 0.95 * len(got)
        with pytest.raises(InputError, match=f"split: menyo:{domain} has no 'train'; it has dev, test"):
            load_bitext(f"menyo:{domain}")
    # Two of the files begin with a pair, not with names.
    assert load_bitext("menyo:book", split="dev").english[0].startswith("Alamu now enjoys solitude")
    with pytest.raises(InputError, match="menyo: no domain 'new'; did you mean 'news'"):
        load_bitext("menyo:new", split="dev")
    collection = load_collection("menyo:news")
    train = {normal(text) for text in found.english}
    asked = {normal(collection.documents[d]) for judged in collection.qrels.values() for d in judged}
    assert not asked & train
    # A domain's dev part as training text, of which nothing is asked.
    for domain, (dev, _) in domains.items():
        own = load_bitext(f"menyo:{domain}/dev")
        assert own.english == load_bitext(f"menyo:{domain}", split="dev").english
        assert len(own) == dev
        found = load_collection(f"menyo:{domain}/dev")
        asked = {normal(found.documents[d]) for judged in found.qrels.values() for d in judged}
        assert not asked & ({normal(text) for text in own.english} | train)
        assert set(found.queries) <= set(load_collection(f"menyo:{domain}").queries)
    with pytest.raises(InputError, match="menyo:news/dev has no 'dev'"):
        load_collection("menyo:news/dev", split="dev")


@needs("tico")
@pytest.mark.parametrize("language", ["ha", "mr", "so", "sw", "zu"])
def test_tico(language):
    parts = {split: load_bitext(f"tico:{language}", split=split) for split in ("train", "dev", "test", "all")}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 2298,
        "dev": 217,
        "test": 556,
        "all": 3071,
    }
    assert parts["all"].english[0] == "about how long have these symptoms been going on?"
    collection = load_collection(f"tico:{language}")
    assert (len(collection.queries), len(collection.documents)) == (556, 3066)
    if language == "ha":
        assert parts["all"].foreign[0] == "kusan tsawon lokacin ne waɗannan alamun ke gudana?"


@pytest.mark.parametrize(
    ("name", "pairs", "question"),
    [
        pytest.param("medquad", 16407, None, marks=needs("medquad")),
        pytest.param("qed", 1355, "who got the first nobel prize in physics", marks=needs("qed")),
        pytest.param(
            "xquad", 1190, "How many points did the Panthers defense surrender?", marks=needs("xquad")
        ),
        pytest.param(
            "covid-qa",
            1380,
            "What is the main cause of HIV-1 infection in children?",
            marks=needs("covid-qa"),
        ),
        pytest.param("pubmedqa", 1000, None, marks=needs("pubmedqa")),
    ],
)
def test_questions_with_passages(name, pairs, question):
    found = load_pairs(name)
    assert len(found) == len(found.passages) == len(found.negatives) == pairs
    assert question is None or found.questions[0] == question
    with pytest.raises(InputError, match=f"split: {name} has no 'dev'; it has train"):
        load_pairs(name, split="dev")


@needs("covid-qa")
def test_articles_are_cut_to_passages_around_the_answer():
    import json

    found = load_pairs("covid-qa")
    content = json.loads((FOLDER / "COVID-QA/data/question-answering/200423_covidQA.json").read_text("utf-8"))
    answers = [
        qa["answers"][0]["text"].split()[0]
        for d in content["data"]
        for p in d["paragraphs"]
        for qa in p["qas"]
    ]
    assert len(answers) == len(found)
    assert sum(word in passage for word, passage in zip(answers, found.passages, strict=True)) == len(found)
    lengths = sorted(len(passage.split()) for passage in found.passages)
    assert 140 <= lengths[len(lengths) // 2] <= 180
    assert lengths[-1] < 600


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs(name))
        for name in ("afriqa", "mafand", "menyo", "tico", "medquad", "qed", "xquad", "covid-qa", "pubmedqa")
    ],
)
def test_files_are_those_that_are_pinned(name):
    states = verify(name)
    assert "as pinned" in states.values()
    assert "differs" not in states.values()
