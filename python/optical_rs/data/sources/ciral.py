"""CIRAL: English questions over African news."""

from collections.abc import Iterator

from ...files import Texts, json_lines, read_qrels, read_texts
from .source import Found, Part, Repository, Source, choose_language, id_of, text_of

#: Languages and their codes.
LANGUAGES = {"hausa": "ha", "somali": "so", "swahili": "sw", "yoruba": "yo"}
#: The publisher's names of the splits.
_SETS = {"dev": "dev", "test": "test-a", "test-b": "test-b"}
_TOPICS = Repository("ciral", "CIRAL/ciral", host="hub")
_PASSAGES = Repository("ciral", "CIRAL/ciral-corpus", host="hub")


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    code = LANGUAGES[choose_language("ciral", language, LANGUAGES)]
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for split in splits:
        name = f"{code}-{_SETS[split]}"
        # Test set A has judgments of pools besides the shallow ones.
        judged = f"{name}-pools" if split == "test" else name
        queries |= read_texts(_TOPICS.file(f"ciral-{language}/topics/topics.ciral-v1.0-{name}.tsv"))
        qrels |= read_qrels(_TOPICS.file(f"ciral-{language}/qrels/qrels.ciral-v1.0-{judged}.tsv"))
    return Found(queries, dict(passages(language)), qrels)


def passages(language: str) -> Texts:
    """The passages of a language."""
    file = f"passages-v1.0/{choose_language('ciral', language, LANGUAGES)}_passages.jsonl"
    path = _PASSAGES.file(file)

    def read() -> Iterator[tuple[str, str]]:
        for where, row in json_lines(path):
            yield (
                id_of(where, row, "docid"),
                f"{row.get('title') or ''} {text_of(where, row, 'text')}".strip(),
            )

    return Texts(read)


SOURCE = Source(
    name="ciral",
    spelling="ciral:hausa",
    title="English questions over African news: hausa, somali, swahili, yoruba",
    size="715,355 · 827,552 · 949,013 · 82,095 passages",
    licence="Apache-2.0",
    repositories=(_TOPICS, _PASSAGES),
    collection=Part(_collection, tuple(_SETS), ("document",)),
    documents=passages,
)
