"""What is said while work goes on, and what is not."""

import pytest
from optical_rs import progress


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = iter([0.0, 1.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bar("encoding", "text") as report:
        for done in (10, 20, 25):
            report(done, 80)
        report(30, 0)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 20 of 80 texts (25%), 31 s, 0.645 texts/s, 93 s left",
        "encoding: 30 texts, 62 s, 0.323 texts/s",
    ]


def test_tokens_are_told_and_what_an_earlier_run_did_is_no_pace(capsys, monkeypatch):
    now = iter([0.0, 1.0, 31.0, 61.0, 71.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bar("encoding", "document") as report:
        report(100, 400, 0)
        report(160, 400, 6200)
        report(220, 400, 12_200)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 160 of 400 documents (40%), 31 s, 1.94 documents/s, 200 tokens/s, 124 s left",
        "encoding: 220 of 400 documents (55%), 61 s, 2 documents/s, 200 tokens/s, 90 s left",
        "encoding: 120 documents of 12200 tokens in 71 s, 1.69 documents/s, 172 tokens/s",
    ]


def test_training_and_saving_make_no_examples_for_a_hub(teacher, pairs, tmp_path, capfd):
    """The trainer takes examples of the training text when it is made, with a bar of its own."""
    pytest.importorskip("sentence_transformers")
    from datasets import Dataset
    from optical_rs.models import student_of
    from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

    texts = Dataset.from_dict({"query": [f for f, _ in pairs], "document": [e for _, e in pairs]})
    cards = []
    for silent in (False, True):
        model = student_of(teacher)
        if silent:
            progress.quiet(model)
        capfd.readouterr()
        arguments = MultiVectorEncoderTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
        MultiVectorEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=texts,
            loss=MultiVectorMultipleNegativesRankingLoss(model),
        )
        folder = tmp_path / str(silent)
        model.save_pretrained(str(folder))
        assert ("Computing widget examples" in capfd.readouterr().err) is not silent
        cards.append((folder / "README.md").read_text(encoding="utf-8"))
    assert ["\nwidget:\n" in card for card in cards] == [True, False]
