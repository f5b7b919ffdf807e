"""Collections as their publishers give them out: through ir_datasets, as files of known names, or as TREC's SGML.

Files of known names are looked for in ``$OPTICAL_RS_DATA`` (default: ``data`` in the cache folder), then on the
Hugging Face hub or GitHub. docs/data.md has their sizes, licences and directions.
"""

import contextlib
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError, closest, require
from ..files import json_lines, read_bytes, read_qrels, read_texts
from .cache import data_folder
from .collection import Collection, Texts

#: CIRAL's languages and their codes.
CIRAL = {"hausa": "ha", "somali": "so", "swahili": "sw", "yoruba": "yo"}
#: AfriCLIRMatrix's languages and their codes.
AFRICLIRMATRIX = {
    **{"afrikaans": "afr", "amharic": "amh", "egyptian_arabic": "arz", "hausa": "hau", "igbo": "ibo"},
    **{"moroccan_arabic": "ary", "northern_sotho": "nso", "shona": "sna", "somali": "som", "swahili": "swa"},
    **{"tigrinya": "tir", "twi": "twi", "wolof": "wol", "yoruba": "yor", "zulu": "zul"},
}
#: AfriQA's languages, and the language of the passages.
AFRIQA = {
    **dict.fromkeys(["bem", "hau", "ibo", "kin", "swa", "twi", "yor", "zul"], "en"),
    **dict.fromkeys(["fon", "wol"], "fr"),
}


def _from_hub(name: str, repo: str, path: str) -> Path:
    local = data_folder() / name / path
    if local.exists():
        return local
    hub = require("huggingface_hub", "data")
    try:
        return Path(hub.hf_hub_download(repo, path, repo_type="dataset"))
    except Exception as error:  # noqa: BLE001 - the hub's client raises many kinds for "not reached"
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: cannot reach {path} of the data set {repo} on the Hugging Face hub ({reason}); "
            f"download it and put it at {local}"
        ) from None


def _from_github(name: str, repo: str, path: str) -> Path:
    local = data_folder() / name / path
    if local.exists():
        return local
    url = f"https://raw.githubusercontent.com/{repo}/main/{path}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            content = answer.read()
    except OSError as error:
        raise InputError(f"{name}: cannot reach {url} ({error}); download it and put it at {local}") from None
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = local.with_name(local.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, local)
    return local


def _language(name: str, language: str, known: Any) -> str:
    if language not in known:
        raise InputError(f"{name}: no language '{language}'{closest(language, known)}")
    return language


def _field(where: str, row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise InputError(f"{where}: no field '{name}'{closest(name, row)}")
    return str(row[name])


def _judged(
    name: str, queries: dict[str, str], documents: dict[str, str], qrels: dict[str, dict[str, int]]
) -> Collection:
    queries = {q: text for q, text in queries.items() if q in qrels}
    if not queries:
        raise InputError(f"{name}: no query with judgments")
    return Collection(name, queries, documents, qrels)


def _ciral(name: str, language: str, split: str) -> Collection:
    code = CIRAL[_language("ciral", language, CIRAL)]
    part = {"test": "test-a", "dev": "dev"}.get(split, split)
    topics = f"ciral-{language}/topics/topics.ciral-v1.0-{code}-{part}.tsv"
    # Test set A has judgments of pools besides the shallow ones.
    qrels = f"ciral-{language}/qrels/qrels.ciral-v1.0-{code}-{part}{'-pools' if part == 'test-a' else ''}.tsv"
    queries = read_texts(_from_hub("ciral", "CIRAL/ciral", topics))
    judged = read_qrels(_from_hub("ciral", "CIRAL/ciral", qrels))
    return _judged(name, queries, dict(_ciral_passages(language)), judged)


def _ciral_passages(language: str) -> Texts:
    file = f"passages-v1.0/{_language('ciral', language, CIRAL)}_passages.jsonl"
    passages = _from_hub("ciral", "CIRAL/ciral-corpus", file)

    def read() -> Iterator[tuple[str, str]]:
        for where, row in json_lines(passages):
            text = f"{row.get('title') or ''} {_field(where, row, 'text')}".strip()
            yield _field(where, row, "docid"), text

    return Texts(read)


def _africlirmatrix(name: str, language: str, split: str) -> Collection:
    code = AFRICLIRMATRIX[_language("africlirmatrix", language, AFRICLIRMATRIX)]
    repo = "castorini/africlirmatrix"
    stem = f"africlirmatrix-v1.0.en.{code}"
    queries = read_texts(_from_github("africlirmatrix", repo, f"test/queries/topics.{stem}.tsv"))
    judged = read_qrels(_from_github("africlirmatrix", repo, f"test/qrels/qrels.{stem}.txt"))
    return _judged(name, queries, dict(_africlirmatrix_articles(language)), judged)


def _africlirmatrix_articles(language: str) -> Texts:
    known = _language("africlirmatrix", language, AFRICLIRMATRIX)
    file = f"africlirmatrix-v1.0-{known}/corpus.jsonl"
    corpus = _from_hub("africlirmatrix", "castorini/africlirmatrix", file)

    def read() -> Iterator[tuple[str, str]]:
        for where, row in json_lines(corpus):
            yield _field(where, row, "id"), _field(where, row, "contents")

    return Texts(read)


def _afriqa(name: str, language: str, split: str) -> Collection:
    pivot = AFRIQA[_language("afriqa", language, AFRIQA)]
    queries: dict[str, str] = {}
    numbers: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    # Questions of one split look among the passages of all.
    for part in ("train", "dev", "test"):
        path = f"data/gold_passages/{language}/gold_span_passages.afriqa.{language}.{pivot}.{part}.json"
        for where, row in json_lines(_from_github("afriqa", "masakhane-io/afriqa", path)):
            passage = numbers.setdefault(_field(where, row, "context"), f"p{len(numbers)}")
            if part == split:
                query = f"{part}-{_field(where, row, 'id')}"
                queries[query] = _field(where, row, "question_lang")
                qrels.setdefault(query, {})[passage] = 1
    return _judged(name, queries, {number: text for text, number in numbers.items()}, qrels)


def _belebele(name: str, language: str, side: str) -> Collection:
    def rows(code: str) -> list[tuple[str, dict[str, Any]]]:
        return list(json_lines(_from_hub("belebele", "facebook/belebele", f"data/{code}.jsonl")))

    asked, answered = rows(language), rows("eng_Latn")
    if side == "document":
        asked, answered = answered, asked
    # Rows of one passage carry the same link; wordings may differ between languages, links do not.
    passages = {_field(where, row, "link"): _field(where, row, "flores_passage") for where, row in answered}
    numbers = {link: f"p{i}" for i, link in enumerate(passages)}
    queries, qrels = {}, {}
    for where, row in asked:
        link = _field(where, row, "link")
        query = f"{numbers.get(link, 'x')}-{_field(where, row, 'question_number')}"
        if link in numbers:
            queries[query] = _field(where, row, "question")
            qrels[query] = {numbers[link]: 1}
    return _judged(name, queries, {numbers[link]: text for link, text in passages.items()}, qrels)


def _irds_source(identifier: str, *needed: str) -> Any:
    library = require("ir_datasets", "data")
    try:
        source = library.load(identifier)
    except KeyError:
        raise InputError(f"irds: no data set '{identifier}'; see ir-datasets.com") from None
    for what in needed:
        if not getattr(source, f"has_{what}")():
            raise InputError(f"irds: {identifier} has no {what}; choose one of its parts (ir-datasets.com)")
    return source


@contextlib.contextmanager
def _getting(identifier: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - downloads fail in many ways
        reason = str(error).strip().splitlines()[:1]
        raise InputError(
            f"irds: cannot get {identifier}: {reason}; see ir-datasets.com for its files"
        ) from None


def _irds(name: str, identifier: str) -> Collection:
    source = _irds_source(identifier, "docs", "queries", "qrels")
    with _getting(identifier):
        qrels = {q: dict(judged) for q, judged in source.qrels_dict().items()}
        queries = {q.query_id: q.default_text() for q in source.queries_iter()}
        documents = {d.doc_id: d.default_text() for d in source.docs_iter()}
    return _judged(name, queries, documents, qrels)


def _irds_documents(identifier: str) -> Texts:
    source = _irds_source(identifier, "docs")
    with _getting(identifier):
        count = source.docs_count()

    def read() -> Iterator[tuple[str, str]]:
        for document in source.docs_iter():
            yield document.doc_id, document.default_text()

    return Texts(read, count)


_TAG = re.compile(r"<\s*(/?)\s*([A-Za-z][\w-]*)[^>]*>")
#: Parts of a document that hold its text; all of it where a document has none of them.
TEXT_TAGS = ("TITLE", "HEADLINE", "HEADL", "HL", "LEAD", "LD", "TEXT", "TX", "BODY", "CAPTION")


def read_sgml_documents(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each ``<DOC>`` of a file of TREC's SGML, as CLEF's news have it (``.gz`` too).

    UTF-8, or Latin-1 where that fails. Text is that of :data:`TEXT_TAGS`.

    Raises
    ------
    InputError
        A document without ``<DOCNO>``, with the file and its number.
    """
    content = _decoded(path)
    for number, block in enumerate(re.findall(r"<DOC>(.*?)</DOC>", content, re.DOTALL | re.IGNORECASE), 1):
        found = re.search(r"<DOCNO>\s*(.*?)\s*</DOCNO>", block, re.DOTALL | re.IGNORECASE)
        if not found or not found[1]:
            raise InputError(f"{path}: document {number} has no <DOCNO>")
        names = "|".join(TEXT_TAGS)
        parts = re.findall(rf"<({names})\b[^>]*>(.*?)</\1>", block, re.DOTALL | re.IGNORECASE)
        texts = [text for _, text in parts] or [
            re.sub(r"<(DOCNO|DOCID)>.*?</\1>", " ", block, flags=re.DOTALL | re.IGNORECASE)
        ]
        yield found[1], _plain(" ".join(texts))


def read_sgml_topics(path: Path, fields: tuple[str, ...] = ("title",)) -> dict[str, str]:
    """Id → text of each ``<top>`` of a topic file of TREC or CLEF.

    Both closed tags (``<EN-title> … </EN-title>``) and open ones (``<title> … <desc> Description: …``) are read.

    Parameters
    ----------
    path : path
    fields : tuple of str
        ``"title"``, ``"desc"`` and ``"narr"``, which are put one after the other.

    Raises
    ------
    InputError
        A topic without number or without these fields.
    """
    topics = {}
    blocks = re.findall(r"<(top|topic)\b[^>]*>(.*?)</\1>", _decoded(path), re.DOTALL | re.IGNORECASE)
    for place, (_, block) in enumerate(blocks, 1):
        parts: dict[str, str] = {}
        marks = [m for m in _TAG.finditer(block) if not m[1]]
        for i, mark in enumerate(marks):
            end = marks[i + 1].start() if i + 1 < len(marks) else len(block)
            name = mark[2].lower().rpartition("-")[2]
            parts[name] = _plain(_TAG.sub(" ", block[mark.end() : end]))
        key = re.sub(r"^Number:\s*", "", parts.get("num") or parts.get("identifier") or "")
        words = {"desc": "Description:", "narr": "Narrative:", "title": "Topic:"}
        names = {"description": "desc", "narrative": "narr"}
        parts = {names.get(name, name): text for name, text in parts.items()}
        text = " ".join(parts[f].removeprefix(words.get(f, "")).strip() for f in fields if parts.get(f))
        if not key or not text:
            raise InputError(f"{path}: topic {place} has no {'number' if not key else ' or '.join(fields)}")
        topics[key] = text
    if not topics:
        raise InputError(f"{path}: no <top>")
    return topics


def _decoded(path: Path) -> str:
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _plain(text: str) -> str:
    import html

    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _trec(name: str, folder: Path) -> Collection:
    topics = sorted(folder.glob("topics*"))
    if len(topics) != 1 or not (folder / "qrels.txt").exists() or not (folder / "documents").is_dir():
        raise InputError(
            f"trec: expected {folder} to have one file 'topics…', qrels.txt, and a folder 'documents' of SGML files"
        )
    documents = dict(_sgml_folder(folder))
    return _judged(name, read_sgml_topics(topics[0]), documents, read_qrels(folder / "qrels.txt"))


def _sgml_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """The documents of all files, a file at a time."""
    known = set()
    for file in sorted(f for f in (folder / "documents").rglob("*") if f.is_file()):
        for key, text in read_sgml_documents(file):
            if key in known:
                raise InputError(f"{file}: document '{key}' is repeated")
            known.add(key)
            yield key, text


def _trec_documents(rest: str) -> Texts:
    if not (Path(rest) / "documents").is_dir():
        raise InputError(f"trec: expected {rest} to have a folder 'documents' of SGML files")
    return Texts(partial(_sgml_folder, Path(rest)))


#: Sources, and what follows their name.
SOURCES = {
    "irds": "an id of ir_datasets",
    "trec": "a folder of TREC's SGML",
    "ciral": "a language",
    "africlirmatrix": "a language",
    "afriqa": "a language's code",
    "belebele": "a language's code of FLORES-200",
}


#: Sources whose documents can be read as they are asked for.
STREAMED: dict[str, Callable[[str], Texts]] = {
    "irds": _irds_documents,
    "trec": _trec_documents,
    "ciral": _ciral_passages,
    "africlirmatrix": _africlirmatrix_articles,
}


def load_published(spec: str, split: str, side: str) -> Collection:
    """A collection of :data:`SOURCES`; see :func:`~optical_rs.data.load_collection`."""
    source, _, rest = spec.partition(":")
    if source == "irds":
        return _irds(spec, rest)
    if source == "trec":
        return _trec(spec, Path(rest))
    if source == "belebele":
        return _belebele(spec, rest, side)
    read = {"ciral": _ciral, "africlirmatrix": _africlirmatrix, "afriqa": _afriqa}[source]
    return read(spec, rest, split)
