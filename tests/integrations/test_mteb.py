"""A student in mteb: its measures are those of this package."""

import pytest

mteb = pytest.importorskip("mteb")


@pytest.mark.parametrize("side", ["query", "document"])
def test_mteb_evaluates_a_student_with_its_teacher(side, tiny_encoder, pairs, tmp_path):
    import optical_rs
    from datasets import Dataset
    from optical_rs.data import Bitext, Collection
    from optical_rs.integrations.mteb import StudentSearch
    from optical_rs.ranking import evaluate

    foreign, english = [f for f, _ in pairs], [e for _, e in pairs]
    optical_rs.distil(
        Bitext("toy", foreign, english),
        tiny_encoder,
        dim=8,
        dev=False,
        side=side,
        output=tmp_path / "student",
        cache=tmp_path / "cache",
        training={"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
    )
    asked, searched = (foreign, english) if side == "query" else (english, foreign)
    queries = {f"q{i}": text for i, text in enumerate(asked)}
    documents = {f"d{i}": text for i, text in enumerate(searched)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(len(pairs))}
    model = StudentSearch(tmp_path / "student", device="cpu", cache=tmp_path / "cache")
    assert isinstance(model, mteb.SearchProtocol)
    if side == "query":
        from mteb.mocks.mock_tasks import MockRetrievalTask

        [result] = mteb.evaluate(model, MockRetrievalTask(), cache=None, show_progress_bar=False).task_results
        assert 0 <= result.get_score() <= 1
    model.index(Dataset.from_dict({"id": list(documents), "title": [""] * 12, "text": searched}))
    found = model.search(Dataset.from_dict({"id": list(queries), "text": asked}), top_k=12)
    collection = Collection("toy", queries, documents, qrels)
    ours = optical_rs.evaluate_student(tmp_path / "student", collection, side=side, device="cpu")
    assert found == {query: dict(hits) for query, hits in ours.run.items()}
    assert evaluate(qrels, found, ["map"]).mean["map"] == ours.result.mean["map"]
