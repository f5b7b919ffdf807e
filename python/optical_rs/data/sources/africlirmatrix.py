"""AfriCLIRMatrix: English titles over African Wikipedias."""

from collections.abc import Iterator

from ...files import Texts, json_lines, read_qrels, read_texts
from .source import Found, Part, Repository, Source, choose_language, id_of, text_of

#: Languages and their codes.
LANGUAGES = {
    **{"afrikaans": "afr", "amharic": "amh", "egyptian_arabic": "arz", "hausa": "hau", "igbo": "ibo"},
    **{"moroccan_arabic": "ary", "northern_sotho": "nso", "shona": "sna", "somali": "som", "swahili": "swa"},
    **{"tigrinya": "tir", "twi": "twi", "wolof": "wol", "yoruba": "yor", "zulu": "zul"},
}
_TOPICS = Repository("africlirmatrix", "castorini/africlirmatrix", "5b301c21efa1ba235fce448e1b8aedbe9b1ebd8e")
_ARTICLES = Repository("africlirmatrix", "castorini/africlirmatrix", host="hub")


def _collection(language: str, splits: tuple[str, ...], side: str) -> Found:
    code = LANGUAGES[choose_language("africlirmatrix", language, LANGUAGES)]
    stem = f"africlirmatrix-v1.0.en.{code}"
    queries = read_texts(_TOPICS.file(f"test/queries/topics.{stem}.tsv"))
    qrels = read_qrels(_TOPICS.file(f"test/qrels/qrels.{stem}.txt"))
    return Found(queries, dict(articles(language)), qrels)


def articles(language: str) -> Texts:
    """The articles of a language."""
    known = choose_language("africlirmatrix", language, LANGUAGES)
    path = _ARTICLES.file(f"africlirmatrix-v1.0-{known}/corpus.jsonl")

    def read() -> Iterator[tuple[str, str]]:
        for where, row in json_lines(path):
            yield id_of(where, row, "id"), text_of(where, row, "contents")

    return Texts(read)


SOURCE = Source(
    name="africlirmatrix",
    spelling="africlirmatrix:hausa",
    title="English titles over Wikipedias in 15 African languages",
    size="Wikipedias of 2022",
    licence="Apache-2.0",
    repositories=(_TOPICS, _ARTICLES),
    collection=Part(_collection, ("test",), ("document",)),
    documents=articles,
)
