"""Retrievers of LangChain and LlamaIndex give what a search gives."""

import pytest
from optical_rs import InputError

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def indexed(exported, documents, tmp_path_factory):
    """An index of the English sentences, the model, and the hits of a query."""
    from optical_rs.edge import Encoder
    from optical_rs.edge.index import index
    from optical_rs.edge.search import search_texts

    encoder, folder = Encoder(exported[0]), tmp_path_factory.mktemp("retrievers") / "index"
    store = index(encoder, documents, folder)
    return folder, exported[0], search_texts(encoder, store, ["the dog runs"], 3)[0]


def test_langchain(indexed):
    pytest.importorskip("langchain_core")
    from optical_rs.integrations.langchain import OpticalRetriever

    folder, model, hits = indexed
    found = OpticalRetriever(folder, model, k=3).invoke("the dog runs")
    assert [(d.id, d.page_content, d.metadata["score"]) for d in found] == [
        (hit.document, hit.text, hit.score) for hit in hits
    ]
    with pytest.raises(InputError, match="nowhere"):
        OpticalRetriever(folder, folder / "nowhere")


def test_llama_index(indexed):
    pytest.importorskip("llama_index.core")
    from optical_rs.integrations.llama_index import OpticalRetriever

    folder, model, hits = indexed
    found = OpticalRetriever(folder, model, k=3).retrieve("the dog runs")
    assert [(n.node.node_id, n.node.get_content(), n.score) for n in found] == [
        (hit.document, hit.text, pytest.approx(hit.score)) for hit in hits
    ]
