"""A trained teacher: hard negatives and their guards, contrastive training, resumption."""

import json

import pytest
from optical_rs import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from optical_rs.data import Collection, QuestionPassages  # noqa: E402
from optical_rs.models import load_model  # noqa: E402
from optical_rs.retrieval import encode  # noqa: E402
from optical_rs.similarity import maxsim  # noqa: E402
from optical_rs.token_cache import TokenCache  # noqa: E402
from optical_rs.training import train_retriever  # noqa: E402
from optical_rs.training.dev import evaluate_alone  # noqa: E402
from optical_rs.training.negatives import Negatives, mine_negatives, without_copies  # noqa: E402

FAST = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "per_device_train_batch_size": 4}


def made(questions, passages, negatives=None, answers=None):
    empty = [()] * len(questions)
    return QuestionPassages("made", questions, passages, negatives or empty, answers or empty)


@pytest.fixture
def questions(pairs):
    """The English sentences, each asked for by the Chichewa words."""
    return made([f for f, _ in pairs], [e for _, e in pairs])


@pytest.fixture
def dev(pairs):
    queries = {f"q{i}": f for i, (f, _) in enumerate(pairs[:4])}
    documents = {f"d{i}": e for i, (_, e) in enumerate(pairs)}
    return Collection("dev", queries, documents, {f"q{i}": {f"d{i}": 1} for i in range(4)})


def test_copies_become_one_text():
    one = made(["Who sings?", "who sings"], ["Sani sings.", "SANI  sings"], [(), ("Rain.",)], [("Sani",), ()])
    found = without_copies([one, made(["What?"], ["sani sings"])])
    assert (found.questions, found.passages) == (["Who sings?", "What?"], ["Sani sings.", "Sani sings."])
    assert (found.negatives, found.answers) == ([("Rain.",), ()], [("Sani",), ()])


def test_an_answer_is_no_negative():
    """Another passage of the question, one that nearly is its passage, one that holds the answer: all answer it."""
    question = "who sings in kano"
    passages = [
        "sani sings in kano every night of the year",
        "in kano sani sings every night of this year",
        "a singer in kano who sings is called musa",
        "who sings in kano sings well, it is SANI.",
        "kano is a city where one sings",
        "rain fell",
    ]
    pairs = made(
        [question, "why", question, "how", "where is kano", "what fell"],
        passages,
        answers=[("Sani",), (), ("Musa",), (), (), ()],
    )
    mined = mine_negatives(pairs, Negatives(depth=6))
    assert mined[0] == mined[2] == (passages[4],)
    # Without the guard on answers the passage with the same words comes first.
    bare = made(pairs.questions, passages)
    assert mine_negatives(bare, Negatives(depth=6))[0] == (passages[3],)
    assert mine_negatives(bare, Negatives(depth=6, skip=1))[0] == (passages[4],)
    # The second passage has nearly all words of the first; it may be a negative where copies alone are none.
    assert passages[1] not in mine_negatives(bare, Negatives(depth=6, count=3))[0]
    looser = mine_negatives(bare, Negatives(depth=6, count=3, overlap=1.0))[0]
    assert passages[1] in looser
    assert passages[2] not in looser


def test_negatives_that_the_pairs_come_with_are_first():
    pairs = made(["who sings", "what fell"], ["sani sings", "rain fell"], [("musa sings",), ()])
    assert mine_negatives(pairs, Negatives())[0] == ("musa sings",)
    # Two of each: the second is found, and the other question has one alone that is allowed.
    assert mine_negatives(pairs, Negatives(count=2)) == [("musa sings", "rain fell"), ("sani sings",)]
    assert mine_negatives(pairs, Negatives("none")) == [(), ()]
    both = made(pairs.questions, pairs.passages, [("musa sings",), ("snow fell", "x")])
    assert mine_negatives(both, Negatives("none")) == [("musa sings",), ("snow fell",)]


def test_the_model_finds_those_below_a_share_of_the_positive(questions, teacher, tmp_path):
    cache = TokenCache(teacher, tmp_path)
    scores = maxsim(
        encode(teacher, questions.questions, "query"), encode(teacher, questions.passages, "document")
    )
    bounded = 0
    for below in (0.6, 1.0):
        mined = mine_negatives(questions, Negatives("model", below=below, depth=12), cache)
        for i, (passage,) in enumerate(mined):
            order = scores[i].argsort()[::-1]
            bound = scores[i, i] - (1 - below) * abs(scores[i, i])
            allowed = [j for j in order if j != i and scores[i, j] < bound - 1e-4]
            if allowed:
                assert questions.passages.index(passage) == allowed[0]
                bounded += allowed[0] != next(j for j in order if j != i)
    assert bounded > 0
    with pytest.raises(InputError, match="tokens: the model finds negatives by its tokens"):
        mine_negatives(questions, Negatives("model"))


def test_words_below_a_share_of_the_positive():
    pairs = made(
        ["the singer of kano", "rain"], ["kano has a singer", "the singer of kano is the singer of kano"]
    )
    strict = mine_negatives(pairs, Negatives(below=0.5, overlap=1.0))
    assert strict[0] == (pairs.passages[1],)  # nothing is below the share: a random one
    assert mine_negatives(pairs, Negatives(overlap=1.0))[0] == (pairs.passages[1],)


@pytest.mark.parametrize("by", ["bm25", "model", "none"])
def test_training_ranks_passages_better(by, questions, tiny_encoder, pairs, tmp_path):
    training = {**FAST, "num_train_epochs": 12, "learning_rate": 5e-3}
    model = train_retriever(
        tiny_encoder,
        questions,
        dim=8,
        negatives=by,
        training=training,
        cache=tmp_path,
        freeze_embeddings=False,
    )
    queries = {f"q{i}": f for i, (f, _) in enumerate(pairs)}
    documents = {f"d{i}": e for i, (_, e) in enumerate(pairs)}
    asked = Collection("asked", queries, documents, {f"q{i}": {f"d{i}": 1} for i in range(len(pairs))})
    before = train_retriever(
        tiny_encoder, questions, dim=8, negatives=by, training={**FAST, "max_steps": 1, "learning_rate": 0.0},
        cache=tmp_path,
    )  # fmt: skip
    was, now = (evaluate_alone(m, asked).result.mean["map"] for m in (before, model))
    assert now > max(was, 0.9)
    assert model.optical_record["steps"] == 36
    assert model.optical_record["negatives"]["by"] == by


def test_dev_chooses_and_stays_out_of_training(questions, dev, tiny_encoder, tmp_path):
    folder = tmp_path / "teacher"
    training = {**FAST, "num_train_epochs": 2}
    model = train_retriever(tiny_encoder, questions, dim=8, dev=dev, training=training, folder=folder)
    record = json.loads((folder / "optical.json").read_text())
    assert (record["pairs"], record["left_out"]) == (8, 4)
    assert record["dev_map"] == pytest.approx(evaluate_alone(model, dev).result.mean["map"])
    assert not (folder / "checkpoints").exists()
    assert not (folder / "start").exists()
    # The same again is loaded; something else is in the way.
    again = train_retriever(tiny_encoder, questions, dim=8, dev=dev, training=training, folder=folder)
    assert again.optical_record == model.optical_record
    kept = load_model(folder).state_dict()
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())
    with pytest.raises(InputError, match="holds a model of other settings"):
        train_retriever(tiny_encoder, questions, dim=4, dev=dev, training=training, folder=folder)
    other = train_retriever(
        tiny_encoder, questions, dim=4, dev=dev, training=training, folder=folder, overwrite=True
    )
    assert load_model(folder).get_embedding_dimension() == other.get_embedding_dimension() == 4


def test_weights_between_the_head_and_the_end_of_training(questions, dev, tiny_encoder, tmp_path):
    def train(name, training, **options):
        folder = tmp_path / name
        options |= {"dim": 8, "dev": dev, "training": {**FAST, **training}}
        return train_retriever(tiny_encoder, questions, folder=folder, **options)

    before = train("before", {"learning_rate": 0.0, "max_steps": 1}).state_dict()
    longer = {"num_train_epochs": 4, "learning_rate": 5e-3}
    after = train("after", longer).state_dict()
    model = train("between", longer, interpolate=0.25)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.25 * (after[name] - before[name]))
    assert any(not torch.equal(before[name], value) for name, value in after.items())
    # What is recorded is of the weights that are saved.
    record = json.loads((tmp_path / "between" / "optical.json").read_text())
    assert record["interpolate"] == 0.25
    assert record["dev_map"] == pytest.approx(evaluate_alone(model, dev).result.mean["map"])
    with pytest.raises(InputError, match="holds a model of other settings"):
        train("between", longer, interpolate=0.5)


def test_an_interrupted_training_goes_on_to_the_same_bits(
    questions, dev, tiny_encoder, tmp_path, interrupted
):
    def train(folder):
        training = {**FAST, "num_train_epochs": 4}
        options = {"dim": 8, "dev": dev, "training": training, "dropout": 0.1}
        return train_retriever(tiny_encoder, questions, folder=folder, **options)

    whole = train(tmp_path / "whole").state_dict()
    interrupted(lambda: train(tmp_path / "cut"), lambda state: state.global_step >= 4)
    assert list((tmp_path / "cut" / "checkpoints").glob("checkpoint-4"))
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(whole[k], v) for k, v in resumed.state_dict().items())


def test_a_checkpoint_is_trained_on(questions, teacher, tmp_path):
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    teacher.save_pretrained(str(tmp_path / "checkpoint"))
    training = {**FAST, "max_steps": 2}
    one = train_retriever(tmp_path / "checkpoint", questions, training=training)
    other = train_retriever(teacher, questions, training=training)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    # The model that was given stays as it is, and so does the table of words.
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    words = next(k for k in before if "word_embeddings" in k)
    moved = {k for k, v in one.state_dict().items() if not torch.equal(before[k], v)}
    assert moved
    assert words not in moved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": []}, "pairs: expected questions with passages, got none"),
        ({"pairs": "medquat"}, "did you mean 'medquad'"),
        ({"negatives": "bm52"}, "negatives: by: unknown miner 'bm52'; did you mean 'bm25'"),
        ({"negatives": {"cont": 2}}, "negatives: unknown key 'cont'; did you mean 'count'"),
        ({"negatives": {"count": 0}}, "negatives: count: expected an integer of at least 1, got 0"),
        ({"negatives": {"below": 2}}, "negatives: below: expected a share"),
        ({"negatives": 3}, "negatives: expected bm25, model, none or options, got 3"),
        ({"scale": 0}, "scale: expected a number above 0"),
        ({"interpolate": 0}, "interpolate: expected a share in 0..1, got 0"),
        ({"training": {"epochs": 1}}, "training: unknown key 'epochs'"),
        ({"training": {"eval_strategy": "sometimes"}}, "training: sometimes is not a valid"),
        ({"encoder": "./none"}, "no such model folder"),
    ],
)  # fmt: skip
def test_bad_input_writes_nothing(options, message, questions, tiny_encoder, tmp_path):
    given = {"encoder": tiny_encoder, "pairs": questions, "dim": 8, "folder": tmp_path / "out", **options}
    with pytest.raises(InputError, match=message):
        train_retriever(given.pop("encoder"), given.pop("pairs"), **given)
    assert not (tmp_path / "out").exists()


def test_folders_of_others_stay(questions, tiny_encoder, tmp_path):
    (tmp_path / "own.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "own.txt"):
        with pytest.raises(InputError, match="output: "):
            train_retriever(tiny_encoder, questions, dim=8, folder=folder, overwrite=True)
    assert [f.name for f in tmp_path.iterdir()] == ["own.txt"]
