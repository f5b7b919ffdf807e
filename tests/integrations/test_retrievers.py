"""Retrievers of LangChain and LlamaIndex give what a search gives."""

import pytest
from optical_rs import InputError

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def indexed(exported, documents, tmp_path_factory):
    """An index of the English sentences, the model, and the hits of a query."""
    from optical_rs.edge import Encoder
    from optical_rs.edge.index import index
    from optical_rs.edge.search import Index

    folder = tmp_path_factory.mktemp("retrievers") / "index"
    rows = [(name, text, {"words": len(text.split())}) for name, text in documents.items()]
    index(Encoder(exported[0]), rows, folder)
    found = Index(folder, exported[0]).search("the dog runs", 3, filters={"words": {"gte": 4}})
    return folder, exported[0], found


def test_langchain(indexed):
    pytest.importorskip("langchain_core")
    from optical_rs.integrations.langchain import OpticalRetriever

    folder, model, hits = indexed
    found = OpticalRetriever(folder, model, k=3, filters={"words": {"gte": 4}}).invoke("the dog runs")
    assert [(d.id, d.page_content, d.metadata["score"], d.metadata["words"]) for d in found] == [
        (hit.document, hit.text, hit.score, hit.fields["words"]) for hit in hits
    ]
    by_words = OpticalRetriever(folder, k=1, lexical=True).invoke("porridge")
    assert [d.page_content for d in by_words] == ["mother cooks porridge"]
    with pytest.raises(InputError, match="nowhere"):
        OpticalRetriever(folder, folder / "nowhere")


def test_llama_index(indexed):
    pytest.importorskip("llama_index.core")
    from optical_rs.integrations.llama_index import OpticalRetriever

    folder, model, hits = indexed
    found = OpticalRetriever(folder, model, k=3, filters={"words": {"gte": 4}}).retrieve("the dog runs")
    assert [(n.node.node_id, n.node.text, n.score, n.node.metadata) for n in found] == [
        (hit.document, hit.text, pytest.approx(hit.score), hit.fields) for hit in hits
    ]
