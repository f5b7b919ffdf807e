"""A teacher with fewer layers: which are kept, that they learn the whole teacher's tokens, and what is left out."""

import json

import numpy as np
import pytest
from optical_rs import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from optical_rs import fingerprint  # noqa: E402
from optical_rs.data import Bitext, Collection  # noqa: E402
from optical_rs.losses import TokenMSELoss  # noqa: E402
from optical_rs.models import keep_layers, late_interaction, load_model, student_of  # noqa: E402
from optical_rs.retrieval import encode  # noqa: E402
from optical_rs.training import Distillation, fewer_layers  # noqa: E402
from optical_rs.training.dev import evaluate_alone  # noqa: E402
from optical_rs.training.english import read_every  # noqa: E402

FAST = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "per_device_train_batch_size": 4}


@pytest.fixture(scope="session")
def deep_teacher(deep_encoder, pairs):
    """A late-interaction model of four layers."""
    prompts = {"query": "query : ", "document": "passage : "}
    return late_interaction(deep_encoder, 8, fit_on=[e for _, e in pairs] * 2, prompts=prompts, device="cpu")


@pytest.fixture
def texts(pairs):
    return [text for pair in pairs for text in pair]


def layers_of(model):
    return model[0].auto_model.encoder.layer


def distance(model, teacher, texts, role="query"):
    """The mean squared distance of tokens to the teacher's."""
    found = zip(encode(model, texts, role), encode(teacher, texts, role), strict=True)
    return float(np.concatenate([((a - b) ** 2).sum(1) for a, b in found]).mean())


@pytest.mark.parametrize(("count", "kept"), [(2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_kept_layers_are_evenly_spaced_and_saved(count, kept, deep_teacher, pairs, tmp_path):
    model = student_of(deep_teacher)
    keep_layers(model, count)
    for layer, place in zip(layers_of(model), kept, strict=True):
        was = layers_of(deep_teacher)[place]
        assert torch.equal(layer.output.dense.weight, was.output.dense.weight)
    model.save_pretrained(str(tmp_path / "model"))
    loaded = load_model(tmp_path / "model", device="cpu")
    assert len(layers_of(loaded)) == count
    assert fingerprint.of_model(loaded) == fingerprint.of_model(model)
    english = [e for _, e in pairs]
    assert distance(loaded, model, english) < 1e-10
    assert (distance(model, deep_teacher, english) < 1e-10) == (count == 4)
    assert len(layers_of(deep_teacher)) == 4


@pytest.mark.parametrize("count", [0, 1, 5, True, 2.0])
def test_numbers_of_layers_that_cannot_be(count, deep_teacher):
    with pytest.raises(InputError, match=r"layers: expected a number in 2\.\.4, got"):
        keep_layers(student_of(deep_teacher), count)


def test_an_encoder_of_one_layer(teacher):
    with pytest.raises(InputError, match="layers: the encoder has one layer alone"):
        keep_layers(student_of(teacher), 2)


def test_token_mse_needs_the_same_text(pairs, teacher, tmp_path):
    english = [e for _, e in pairs]
    train = {**FAST, "max_steps": 1}
    engine = Distillation(loss=TokenMSELoss, training=train)
    with pytest.raises(InputError, match="TokenMSELoss: expected the same text and tokenizer on both sides"):
        engine.run(Bitext("pairs", [f"{e} today" for e in english], english), teacher)


def test_they_learn_the_tokens_in_both_roles(deep_teacher, texts, tmp_path):
    before = fingerprint.of_model(deep_teacher)
    training = {**FAST, "max_steps": 120, "learning_rate": 5e-3}
    model = fewer_layers(deep_teacher, 2, texts, training=training, cache=tmp_path)
    start = student_of(deep_teacher)
    keep_layers(start, 2)
    for role in ("query", "document"):
        assert distance(model, deep_teacher, texts, role) < 0.3 * distance(start, deep_teacher, texts, role)
    assert model.optical_record["system"] == {"loss": "optical_rs.losses.tokens:TokenMSELoss", "layers": 2}
    assert (model.optical_record["texts"], model.optical_record["steps"]) == (len(texts), 120)
    assert fingerprint.of_model(deep_teacher) == before


def test_texts_of_dev_are_left_out(deep_teacher, pairs, texts, tmp_path):
    queries = {f"q{i}": f for i, (f, _) in enumerate(pairs[:3])}
    documents = {f"d{i}": e.capitalize() for i, (_, e) in enumerate(pairs)}
    dev = Collection("dev", queries, documents, {f"q{i}": {f"d{i}": 1} for i in range(3)})
    long = "sun " * 300
    training = {**FAST, "max_steps": 2}
    model = fewer_layers(
        deep_teacher, 2, [*texts, texts[-1], " ", long], dev=dev, training=training, cache=tmp_path
    )
    # Three questions, three passages in another spelling, one text twice and one empty.
    assert model.optical_record["texts"] == len(texts) - 6 + 1
    assert model.optical_record["dev_map"] == pytest.approx(evaluate_alone(model, dev).result.mean["map"])
    with pytest.raises(InputError, match="texts: expected two or more, got 0 of 6 without those of dev"):
        fewer_layers(deep_teacher, 2, texts[:6], dev=dev, training=training, cache=tmp_path)


def test_a_folder_holds_what_was_made(deep_teacher, texts, tmp_path, interrupted):
    training = {**FAST, "max_steps": 8}

    def make(name, layers=2, **options):
        folder, cache = tmp_path / name, tmp_path / "cache"
        return fewer_layers(
            deep_teacher, layers, texts, training=training, folder=folder, cache=cache, **options
        )

    whole = make("whole", base="runs/teacher", sources=["mafand:hau"])
    record = json.loads((tmp_path / "whole" / "optical.json").read_text())
    assert (record["base"], record["bitext"]) == ("teacher", ["mafand:hau"])
    assert (
        "mean squared error between the tokens of the same text"
        in (tmp_path / "whole" / "README.md").read_text()
    )
    assert not (tmp_path / "whole" / "checkpoints").exists()
    # Once more is loaded; interrupted and continued ends with the same bits.
    again = make("whole")
    assert again.optical_record["train_seconds"] == whole.optical_record["train_seconds"]
    interrupted(lambda: make("cut"), lambda state: state.global_step >= 4)
    continued = make("cut")
    assert continued.optical_record["steps"] == 8
    for made in (again, continued):
        assert fingerprint.of_model(made) == fingerprint.of_model(whole)
    with pytest.raises(InputError, match="holds a model of other settings"):
        make("whole", layers=3)
    assert len(layers_of(make("whole", layers=3, overwrite=True))) == 3


def test_the_texts_of_both_sides(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"query": "who sings", "passage": "she sings"}\n')
    (tmp_path / "lines.txt").write_text("rain fell\n\nshe sings\n")
    (tmp_path / "pairs.tsv").write_text("moto\tfire\nmadzi\twater\n")
    for name, texts in {
        "q.jsonl": ["who sings", "she sings"],
        "lines.txt": ["rain fell", "she sings"],
        "pairs.tsv": ["moto", "madzi", "fire", "water"],
    }.items():
        assert read_every(str(tmp_path / name), "text") == texts
    assert read_every(str(tmp_path / "pairs.tsv"), "text", 1) == ["moto", "fire"]
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        read_every(str(tmp_path / "none.txt"), "text")
