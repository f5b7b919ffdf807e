"""Translate-Distill over passages: which are scored, what the loss is, and that recipes, Python and continued runs agree."""

import json

import numpy as np
import optical_rs
import pytest
from optical_rs import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs.data import Bitext  # noqa: E402
from optical_rs.losses import OpticalLoss, TranslateDistillLoss, scores  # noqa: E402
from optical_rs.models import student_of  # noqa: E402
from optical_rs.retrieval import encode  # noqa: E402
from optical_rs.similarity import TokenStore, maxsim  # noqa: E402
from optical_rs.token_cache import TokenCache  # noqa: E402
from optical_rs.training import Distillation  # noqa: E402
from optical_rs.training.english import read_english  # noqa: E402

FAST = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "per_device_train_batch_size": 4}
PASSAGES = [
    "the dog of the king runs to the market",
    "mother sells fish at the river",
    "rain fell on the house today",
    "she likes a book about birds",
    "the child is at school",
    "a fish and a dog",
]


@pytest.fixture
def bitext(pairs):
    return Bitext("pairs", [f for f, _ in pairs], [e for _, e in pairs])


def mean_scores(queries, documents):
    """Mean MaxSim by brute force."""
    return np.array([[(q @ d.T).max(1).mean() for d in documents] for q in queries], dtype=np.float64)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_the_loss_is_the_divergence_over_the_drawn_passages(bitext, teacher, tmp_path):
    cache = TokenCache(teacher, tmp_path)
    english, passages = cache.tokens(bitext.english, "query"), cache.tokens(PASSAGES, "document")
    student = student_of(teacher).eval()
    loss = TranslateDistillLoss(student, english, passages=passages, candidates=4, pooled_weight=0.5)
    features = student.preprocess(bitext.foreign[:3], prompt=student.prompts.get("query") or "", task="query")
    labels = torch.arange(3)
    texts = [passages[i] for i in range(len(passages))]
    asked = [english[i] for i in range(3)]
    # The best two of each sentence by the teacher are always there, in its order.
    exact = maxsim([np.asarray(t) for t in asked], [np.asarray(t) for t in texts])
    for place in range(3):
        assert loss.candidates.found[place][:2] == np.argsort(-exact[place], kind="stable")[:2].tolist()
    torch.manual_seed(0)
    terms = loss([features], labels)
    torch.manual_seed(0)
    drawn, mask = loss.candidates.draw(labels, torch.zeros(1))
    chosen = [tokens[kept].numpy() for tokens, kept in zip(drawn, mask, strict=True)]
    assert 4 <= len(chosen) <= len(PASSAGES)
    mine = encode(student, bitext.foreign[:3], "query")
    target, given = (log_softmax(20 * mean_scores(side, chosen)) for side in (asked, mine))
    want = (np.exp(target) * (target - given)).sum(1).mean()
    assert terms["scores"].item() == pytest.approx(want, rel=1e-4)
    pooled = np.mean([((x.mean(0) - y.mean(0)) ** 2).sum() for x, y in zip(mine, asked, strict=True)])
    assert terms["pooled"].item() == pytest.approx(0.5 * pooled, rel=1e-4)


def test_transport_with_scores_is_the_sum_of_both(bitext, teacher, tmp_path):
    cache = TokenCache(teacher, tmp_path)
    english, passages = cache.tokens(bitext.english, "query"), cache.tokens(PASSAGES, "document")
    student = student_of(teacher).eval()
    features = student.preprocess(bitext.foreign[:3], prompt=student.prompts.get("query") or "", task="query")
    options = {"passages": passages, "candidates": 4}
    torch.manual_seed(0)
    both = OpticalLoss(student, english, scores_weight=2.0, **options)([features], torch.arange(3))
    torch.manual_seed(0)
    alone = TranslateDistillLoss(student, english, **options)([features], torch.arange(3))
    assert both.keys() == {"transport", "scores"}
    assert both["scores"].item() == pytest.approx(2 * alone.item(), rel=1e-5)
    transport = OpticalLoss(student, english)([features], torch.arange(3))
    assert both["transport"].item() == pytest.approx(transport.item(), rel=1e-5)
    for bad in ({"passages": passages}, {"scores_weight": 1.0}):
        with pytest.raises(InputError, match="scores_weight: expected a number > 0 with passages"):
            OpticalLoss(student, english, **bad)


def test_the_draw_differs_between_steps_and_covers_the_depth(bitext, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "DEPTH", 5)
    cache = TokenCache(teacher, tmp_path)
    english, passages = cache.tokens(bitext.english, "query"), cache.tokens(PASSAGES, "document")
    loss = TranslateDistillLoss(student_of(teacher), english, passages=passages, candidates=3)
    assert [len(found) for found in loss.candidates.found] == [5] * len(bitext.english)
    seen = {loss.candidates.draw(torch.tensor([0]), torch.zeros(1))[1].sum().item() for _ in range(30)}
    assert len(seen) > 1
    assert all(len(loss.candidates.draw(torch.tensor([0]), torch.zeros(1))[0]) == 3 for _ in range(5))


def test_students_score_passages_as_the_teacher_does(bitext, teacher, tmp_path):
    def divergence(student):
        documents = encode(teacher, PASSAGES, "document")
        asked, mine = encode(teacher, bitext.english, "query"), encode(student, bitext.foreign, "query")
        target, given = (log_softmax(20 * mean_scores(side, documents)) for side in (asked, mine))
        return (np.exp(target) * (target - given)).sum(1).mean()

    training = {**FAST, "num_train_epochs": 12, "learning_rate": 5e-3}
    engine = Distillation(loss="translate-distill", passages=PASSAGES, training=training)
    student = engine.run(bitext, teacher, english=TokenCache(teacher, tmp_path))
    assert divergence(student) < 0.5 * divergence(teacher)


def test_an_interrupted_run_draws_the_same_passages(bitext, teacher, tmp_path, interrupted, monkeypatch):
    monkeypatch.setattr(scores, "DEPTH", 5)
    training = {**FAST, "num_train_epochs": 4, "save_strategy": "epoch"}
    options = {"candidates": 2}
    engine = Distillation(
        loss="translate-distill", loss_options=options, passages=PASSAGES, training=training
    )

    def train(folder):
        return engine.run(bitext, teacher, english=TokenCache(teacher, tmp_path / "tokens"), folder=folder)

    whole = train(tmp_path / "whole").state_dict()
    interrupted(lambda: train(tmp_path / "cut"), lambda state: state.epoch >= 2)
    resumed = train(tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[k], v) for k, v in resumed.items())


def test_passages_without_tokens_and_blank_lines_are_no_candidates(bitext, teacher, tmp_path):
    (tmp_path / "lines.txt").write_text("one\n\n  \ntwo\n")
    assert read_english([str(tmp_path / "lines.txt")], "document", "passages") == ["one", "two"]
    english = TokenCache(teacher, tmp_path).tokens(bitext.english, "query")
    store = TokenStore.create(tmp_path / "passages", english.dim)
    store.append(
        [np.eye(3, english.dim), np.zeros((0, english.dim)), np.eye(2, english.dim)], ids=["a", "b", "c"]
    )
    loss = TranslateDistillLoss(student_of(teacher), english, passages=store, candidates=4)
    assert {i for found in loss.candidates.found for i in found} == {0, 2}


def test_the_identity_knows_the_passages(bitext):
    def identity(**options):
        return Distillation(loss="translate-distill", **options).identity("t", "s", bitext)

    made = [identity(), identity(passages=PASSAGES), identity(passages=PASSAGES[:2])]
    made.append(identity(passages=PASSAGES, loss_options={"candidates": 2}))
    assert len(set(made)) == len(made)


def test_python_and_the_command_make_the_same_student(tmp_path, tiny_encoder, bitext_file):
    from optical_rs.cli import _dispatch, respell
    from optical_rs.models import load_model

    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"query": "who?", "passage": text}) for text in PASSAGES))
    training = {**FAST, "num_train_epochs": 2, "eval_strategy": "no", "save_strategy": "no"}
    mine = optical_rs.distil(
        bitext_file, tiny_encoder, loss="translate-distill", dev=False, passages=file, dim=8,
        cache=tmp_path / "cache", training=training,
    )  # fmt: skip
    arguments = [
        *("train", "--bitext", bitext_file, "--teacher", tiny_encoder, "--dim", 8, "--output", tmp_path / "out"),
        *("--loss", "translate-distill", "--passages", file, "--cache", tmp_path / "cache", "--use_cpu"),
        *("--num_train_epochs", 2, "--per_device_train_batch_size", 4, "--disable_tqdm", "true"),
        *("--bf16", "false", "--eval_strategy", "no", "--save_strategy", "no"),
    ]  # fmt: skip
    _dispatch(respell([str(argument) for argument in arguments]))
    found = load_model(tmp_path / "out" / "student").state_dict()
    assert all(torch.equal(found[k], v) for k, v in mine.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "pooled-mse"}, "passages: expected a loss that scores them, such as translate-distill"),
        ({"loss": "retrieval"}, "passages: expected a loss that scores them"),
        ({"side": "document"}, "passages: expected a student of queries"),
        ({"passages": "the dog"}, "passages: expected a list of texts, got one text"),
    ],
)
def test_bad_passages(options, message):
    with pytest.raises(InputError, match=message):
        Distillation(**{"loss": "translate-distill", "passages": PASSAGES, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates: expected an integer of at least 1, got 0"),
        ({"pooled_weight": -1}, "pooled_weight: expected a number >= 0, got -1"),
        ({"scale": 0}, "scale: expected a number > 0, got 0"),
    ],
)
def test_bad_options(options, message, teacher, store):
    with pytest.raises(InputError, match=message):
        TranslateDistillLoss(teacher, store, passages=store, **options)
    with pytest.raises(InputError, match="passages: expected the teacher's stored tokens"):
        TranslateDistillLoss(teacher, teacher, passages=[np.eye(2)])
