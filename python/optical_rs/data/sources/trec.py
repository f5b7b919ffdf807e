"""TREC's SGML, as CLEF's documents and topics come; read a document at a time."""

import html
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...errors import InputError
from ...files import Texts, check_id, opened, read_qrels
from .source import Found, Part, Source

#: Parts of a document that hold its text; all of it where a document has none of them.
TEXT_TAGS = ("TITLE", "HEADLINE", "HEADL", "HL", "LEAD", "LD", "TEXT", "TX", "BODY", "CAPTION")
#: A document or topic of more than these bytes is an end tag that is missing.
LARGEST = 64 << 20
_PIECE = 1 << 20
# No two parts of it can match the same characters, so that it takes linear time on any text.
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)(?![\w-])[^<>]*>")


def _blocks(path: Path, *names: str) -> Iterator[str]:
    """What stands between ``<name …>`` and ``</name>``, one after the other; UTF-8, or Latin-1 where that fails.

    One that is not closed is an error: the next would be taken for a part of it, or it would be missing.
    """
    mark = re.compile(rb"<(/?)(?:%s)(?![\w-])[^<>]*>" % "|".join(names).encode(), re.IGNORECASE)
    held = bytearray()
    begin: int | None = None
    scan = 0
    number = 0
    with opened(path) as file:
        while piece := file.read(_PIECE):
            if not held and piece.startswith((b"\xff\xfe", b"\xfe\xff")) and not number:
                raise InputError(f"{path}: expected UTF-8 or Latin-1, got UTF-16")
            held += piece
            for found in mark.finditer(held, scan):
                scan = found.end()
                if not found[1]:
                    if begin is not None:
                        raise InputError(
                            f"{path}: <{names[0]}> {number + 1} has no </{names[0]}> before the next <{names[0]}>"
                        )
                    begin = found.end()
                elif begin is not None:
                    number += 1
                    raw, begin = bytes(held[begin : found.start()]), None
                    try:
                        yield raw.decode("utf-8")
                    except UnicodeDecodeError:
                        yield raw.decode("latin-1")
            # A tag may be cut by the end of the piece: it is looked at again with the next one.
            cut = held.rfind(b"<", max(scan, len(held) - 1024))
            scan = cut if cut >= 0 else len(held)
            keep = scan if begin is None else begin
            del held[:keep]
            scan -= keep
            begin = None if begin is None else 0
            if len(held) > LARGEST:
                raise InputError(
                    f"{path}: <{names[0]}> {number + 1} has no </{names[0]}> within {LARGEST >> 20} MiB"
                )
    if begin is not None:
        raise InputError(f"{path}: <{names[0]}> {number + 1} has no </{names[0]}> before the end of the file")


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _fields(block: str, names: frozenset[str]) -> tuple[list[tuple[str, str]], str]:
    """(name, text) of the outermost elements of these names, and the text outside of them."""
    fields: list[tuple[str, str]] = []
    rest: list[str] = []
    inside, start = "", 0
    for tag in _TAG.finditer(block):
        name = tag[2].upper()
        if not inside and not tag[1] and name in names:
            rest.append(block[start : tag.start()])
            inside, start = name, tag.end()
        elif inside and tag[1] and name == inside:
            fields.append((inside, block[start : tag.start()]))
            inside, start = "", tag.end()
    # An element that is not closed reaches to the end.
    if inside:
        fields.append((inside, block[start:]))
    else:
        rest.append(block[start:])
    return fields, " ".join(rest)


def read_sgml_documents(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each ``<DOC>`` of a file of TREC's SGML, as CLEF's news have it (``.gz`` too).

    UTF-8, or Latin-1 where that fails. Text is that of :data:`TEXT_TAGS`. Memory holds one document.

    Raises
    ------
    InputError
        A document without ``<DOCNO>`` or with a blank in it, or one that is not closed, with the file and its number;
        a file without documents; UTF-16.
    """
    names = frozenset({*TEXT_TAGS, "DOCNO", "DOCID"})
    number = 0
    for number, block in enumerate(_blocks(path, "DOC"), 1):
        fields, rest = _fields(block, names)
        key = next((text.strip() for name, text in fields if name == "DOCNO"), "")
        if not key:
            raise InputError(f"{path}: document {number} has no <DOCNO>")
        if "<" in key:
            raise InputError(f"{path}: document {number} has no </DOCNO>")
        texts = [text for name, text in fields if name not in ("DOCNO", "DOCID")]
        yield check_id(f"{path}: document {number}", key), _plain(" ".join(texts) if texts else rest)
    if not number:
        raise InputError(f"{path}: no <DOC>")


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
        A topic without number or without these fields, that is not closed or whose number is repeated.
    """
    topics = {}
    words = {"desc": "Description:", "narr": "Narrative:", "title": "Topic:"}
    names = {"description": "desc", "narrative": "narr"}
    for place, block in enumerate(_blocks(path, "top", "topic"), 1):
        parts: dict[str, str] = {}
        marks = [m for m in _TAG.finditer(block) if not m[1]]
        for i, mark in enumerate(marks):
            end = marks[i + 1].start() if i + 1 < len(marks) else len(block)
            name = mark[2].lower().rpartition("-")[2]
            parts[names.get(name, name)] = _plain(block[mark.end() : end])
        key = re.sub(r"^Number:\s*", "", parts.get("num") or parts.get("identifier") or "")
        text = " ".join(parts[f].removeprefix(words.get(f, "")).strip() for f in fields if parts.get(f))
        if not key or not text:
            raise InputError(f"{path}: topic {place} has no {'number' if not key else ' or '.join(fields)}")
        if key in topics:
            raise InputError(f"{path}: topic {place}: number '{key}' is repeated")
        topics[check_id(f"{path}: topic {place}", key)] = text
    if not topics:
        raise InputError(f"{path}: no <top>")
    return topics


def _sgml_folder(folder: Path) -> Iterator[tuple[str, str]]:
    """The documents of all files but hidden ones, a file at a time.

    A file without documents is an error, as it may be one that is packed in another way.
    """
    known = set()
    files = sorted(f for f in (folder / "documents").rglob("*") if f.is_file() and f.name[0] != ".")
    if not files:
        raise InputError(f"trec: expected {folder / 'documents'} to have SGML files, got none")
    for file in files:
        for key, text in read_sgml_documents(file):
            if key in known:
                raise InputError(f"{file}: document '{key}' is repeated")
            known.add(key)
            yield key, text


def _collection(rest: str, splits: tuple[str, ...], side: str | None) -> Found:
    folder = Path(rest)
    topics = sorted(folder.glob("topics*"))
    if len(topics) != 1 or not (folder / "qrels.txt").exists() or not (folder / "documents").is_dir():
        raise InputError(
            f"trec: expected {folder} to have one file 'topics…', qrels.txt, and a folder 'documents' of SGML files"
        )
    documents = dict(_sgml_folder(folder))
    return Found(read_sgml_topics(topics[0]), documents, read_qrels(folder / "qrels.txt"))


def documents(rest: str) -> Texts:
    """The documents of a folder."""
    if not (Path(rest) / "documents").is_dir():
        raise InputError(f"trec: expected {rest} to have a folder 'documents' of SGML files")
    return Texts(partial(_sgml_folder, Path(rest)))


SOURCE = Source(
    name="trec",
    spelling="trec:FOLDER",
    title="CLEF's and TREC's SGML: one file `topics…`, `qrels.txt`, a folder `documents`",
    size="yours",
    licence="by agreement with its owners",
    getting="your files",
    collection=Part(_collection, ("test",)),
    documents=documents,
)
