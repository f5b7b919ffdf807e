"""The English anchor: what it holds, where its text comes from, and that a continued run draws the same text."""

import json

import numpy as np
import optical_rs
import pytest
from optical_rs import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs import token_cache  # noqa: E402
from optical_rs.data import Bitext  # noqa: E402
from optical_rs.losses import LOSSES, PooledMSELoss  # noqa: E402
from optical_rs.models import student_of  # noqa: E402
from optical_rs.retrieval import encode  # noqa: E402
from optical_rs.token_cache import TokenCache  # noqa: E402
from optical_rs.training import Anchor, Distillation  # noqa: E402
from optical_rs.training.anchor import AnchoredLoss, read_anchor  # noqa: E402

FAST = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "per_device_train_batch_size": 4}
ENGLISH = ["the dog runs", "mother sells fish", "the market is far", "she likes a book", "rain fell today"]


@pytest.fixture
def bitext(pairs):
    return Bitext("pairs", [f for f, _ in pairs], [e for _, e in pairs])


def moved(student, teacher, texts=ENGLISH, role="query"):
    """The mean squared distance of tokens to the teacher's."""
    before, after = encode(teacher, texts, role), encode(student, texts, role)
    return float(np.concatenate([((a - b) ** 2).sum(1) for a, b in zip(after, before, strict=True)]).mean())


def test_the_term_is_the_mean_squared_distance_of_tokens(teacher, tmp_path):
    student = student_of(teacher).eval()
    anchor = Anchor(ENGLISH, weight=0.5, batch_size=5)
    for role in ("query", "document"):
        before = {role: TokenCache(teacher, tmp_path).tokens(ENGLISH, role)}
        loss = AnchoredLoss(PooledMSELoss(student, teacher), student, anchor, before, seed=0)
        assert loss.term().item() == pytest.approx(0, abs=1e-9)
        with torch.no_grad():
            student[1].linear.bias += 0.5
        assert loss.term().item() == pytest.approx(moved(student, teacher, role=role), rel=1e-5)
        with torch.no_grad():
            student[1].linear.bias -= 0.5


@pytest.mark.parametrize(
    ("loss", "side"), [*((loss, "query") for loss in LOSSES), ("retrieval", "query"), ("pooled-mse", "both")]
)
def test_every_loss_holds_english(loss, side, bitext, teacher, tmp_path):
    training = {**FAST, "num_train_epochs": 6, "learning_rate": 5e-3}
    groups = ["ny"] * len(bitext) if loss == "retrieval" else ()
    students = {
        weight: Distillation(
            loss=loss,
            side=side,
            training=training,
            anchor=None if weight is None else Anchor(ENGLISH, weight),
        ).run(bitext, teacher, groups=groups, english=TokenCache(teacher, tmp_path))
        for weight in (None, 20.0)
    }
    roles = ("query",) if side == "query" and loss != "retrieval" else ("query", "document")
    for role in roles:
        assert moved(students[20.0], teacher, role=role) < 0.5 * moved(students[None], teacher, role=role)


def test_the_start_encodes_a_text_once(bitext, teacher, tmp_path, monkeypatch):
    seen = []
    own = token_cache.encode
    monkeypatch.setattr(
        token_cache, "encode", lambda m, texts, *a, **o: seen.extend(texts) or own(m, texts, *a, **o)
    )
    engine = Distillation(
        training={**FAST, "num_train_epochs": 2}, anchor=Anchor([*ENGLISH, bitext.english[0]])
    )
    for _ in range(2):
        engine.run(bitext, teacher, english=TokenCache(teacher, tmp_path))
    assert sorted(seen) == sorted({*ENGLISH, *bitext.english})


def test_a_student_of_another_start_is_held_at_that(bitext, teacher, tmp_path):
    start = student_of(teacher)
    with torch.no_grad():
        start[1].linear.bias += 1.0
    training = {**FAST, "num_train_epochs": 4, "learning_rate": 5e-3}
    engine = Distillation(training=training, anchor=Anchor(ENGLISH, 50.0))
    student = engine.run(bitext, teacher, start, english=TokenCache(teacher, tmp_path))
    assert moved(student, start) < 0.2 * moved(student, teacher)


def test_an_interrupted_run_draws_the_same_texts(bitext, teacher, tmp_path, interrupted):
    training = {**FAST, "num_train_epochs": 4, "save_strategy": "epoch", "gradient_accumulation_steps": 2}
    engine = Distillation(loss="optical", training=training, anchor=Anchor(ENGLISH, batch_size=2))

    def train(folder):
        return engine.run(bitext, teacher, english=TokenCache(teacher, tmp_path / "tokens"), folder=folder)

    whole = train(tmp_path / "whole").state_dict()
    interrupted(lambda: train(tmp_path / "cut"), lambda state: state.epoch >= 2)
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    resumed = train(tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[k], v) for k, v in resumed.items())


def test_the_identity_knows_the_anchor(bitext):
    def identity(anchor):
        return Distillation(anchor=anchor).identity("t", "s", bitext)

    anchors = [
        None,
        Anchor(ENGLISH),
        Anchor(ENGLISH, 2.0),
        Anchor(ENGLISH, batch_size=8),
        Anchor(ENGLISH[:2]),
    ]
    assert len({identity(anchor) for anchor in anchors}) == len(anchors)
    assert identity(Anchor(ENGLISH)) == identity(Anchor([*ENGLISH, ENGLISH[0], " "]))


def test_where_text_comes_from(tmp_path, bitext_file, pairs):
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "who?", "passage": "she"}))
    texts = [str(tmp_path / "lines.txt"), str(tmp_path / "pairs.jsonl"), str(bitext_file)]
    english = [e for _, e in pairs]
    assert list(read_anchor({"text": texts}, "query").texts) == ["one", "two", "who?", *english]
    assert list(read_anchor({"text": texts[1]}, "document").texts) == ["she"]
    with pytest.raises(InputError, match=r"none\.txt"):
        read_anchor({"text": str(tmp_path / "none.txt")}, "query")


def test_recipes_and_the_command_make_the_same_student(tmp_path, tiny_encoder, bitext_file):
    from optical_rs.cli import _dispatch, respell

    (tmp_path / "lines.txt").write_text("\n".join(ENGLISH))
    anchor = {"text": str(tmp_path / "lines.txt"), "weight": 3.0}
    common = {
        "dim": 8,
        "training": {**FAST, "num_train_epochs": 2, "eval_strategy": "no", "save_strategy": "no"},
    }
    made = {
        given is None: optical_rs.distil(
            bitext_file, tiny_encoder, loss="greedy", dev=False, anchor=given,
            cache=tmp_path / "cache", **common,
        )
        for given in (anchor, None)
    }  # fmt: skip
    arguments = [
        *(
            "train",
            "--bitext",
            bitext_file,
            "--teacher",
            tiny_encoder,
            "--dim",
            8,
            "--output",
            tmp_path / "out",
        ),
        *("--loss", "greedy", "--anchor", json.dumps(anchor), "--cache", tmp_path / "cache"),
        *("--num_train_epochs", 2, "--per_device_train_batch_size", 4, "--use_cpu", "--disable_tqdm", "true"),
        *("--bf16", "false", "--eval_strategy", "no", "--save_strategy", "no"),
    ]
    _dispatch(respell([str(argument) for argument in arguments]))
    from optical_rs.models import load_model

    found = load_model(tmp_path / "out" / "student").state_dict()
    assert all(torch.equal(found[k], v) for k, v in made[False].state_dict().items())
    assert any(not torch.equal(found[k], v) for k, v in made[True].state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("qed", "anchor: expected a mapping with 'text', got 'qed'"),
        ({"texts": "qed"}, "anchor: unknown key 'texts'; did you mean 'text'"),
        ({"weight": 1}, "anchor: text: expected a spec or a list of specs, got None"),
        ({"text": "qed", "weight": 0}, "anchor: weight: expected a number above 0, got 0"),
        ({"text": "qed", "batch_size": 1.5}, "anchor: batch_size: expected an integer"),
        ({"text": "qedd"}, "qedd"),
    ],
)
def test_bad_anchors(given, message):
    with pytest.raises(InputError, match=message):
        read_anchor(given, "query")


def test_bad_anchors_in_python():
    with pytest.raises(InputError, match="anchor: text: expected English texts, got none"):
        Anchor([" "])
    with pytest.raises(InputError, match="expected a list of texts, got one text"):
        Anchor("the dog")
    with pytest.raises(InputError, match="anchor: expected an Anchor"):
        Distillation(anchor={"text": "qed"})
