"""Domain adaptation: masked words, mined pairs, fewer weights, and the way back."""

import numpy as np
import pytest
from optical_rs import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs.models import freeze_word_embeddings, interpolate, student_of  # noqa: E402
from optical_rs.models import weights as changes  # noqa: E402
from optical_rs.training import stages  # noqa: E402


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def tokens(model, texts):
    return np.concatenate(model.encode_query(texts, convert_to_numpy=True, show_progress_bar=False))


def test_masked_words_are_learnt(teacher, pairs, tmp_path):
    model = student_of(teacher)
    freeze_word_embeddings(model)
    before = weights(model)
    texts = [f for f, _ in pairs] * 8
    training = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "report_to": "none",
    }
    training |= {"use_cpu": True, "seed": 0, "logging_strategy": "no", "disable_tqdm": True}
    first = stages.continue_mlm(model, texts, training, mask=0.3)
    again = stages.continue_mlm(model, texts, {**training, "num_train_epochs": 15}, mask=0.3)
    assert first["mlm_steps"] == 12
    assert again["mlm_loss"] < 0.9 * first["mlm_loss"]
    after = weights(model)
    table = next(name for name in after if "word_embeddings" in name)
    assert torch.equal(after[table], before[table])
    assert any(not torch.equal(after[n], before[n]) for n in after if "encoder.layer" in n)
    # The head is not the encoder's business.
    assert all(torch.equal(after[n], before[n]) for n in after if n.startswith("1."))
    assert tokens(model, texts[:3]).shape == tokens(teacher, texts[:3]).shape


def test_pairs_are_mined(teacher, pairs):
    english = [e for _, e in pairs]
    # Where both sides are the same texts, each is its own translation.
    mined = stages.mine_bitext(teacher, teacher, english[:8], english[4:], margin=1.0)
    assert set(zip(mined.foreign, mined.english, strict=True)) == {(e, e) for e in english[4:8]}
    few = stages.mine_bitext(teacher, teacher, english[:8], english[4:], margin=100.0)
    assert len(few) == 0
    strict = stages.mine_bitext(teacher, teacher, english[:8], english, margin=1.1)
    assert set(strict.foreign) <= set(english[:8])


def test_layers_are_frozen(teacher):
    model = student_of(teacher)
    changes.freeze_layers(model, 1)
    for name, parameter in model[0].auto_model.named_parameters():
        assert parameter.requires_grad == ("layer.0." not in name and "pooler" not in name)
    changes.freeze_layers(student_of(teacher), 0)
    with pytest.raises(InputError, match=r"freeze_layers: expected 0\.\.1, got 2"):
        changes.freeze_layers(student_of(teacher), 2)


def test_adapters_are_trained_and_merged(teacher, pairs):
    pytest.importorskip("peft")
    model, texts = student_of(teacher), [f for f, _ in pairs]
    names = set(dict(model.named_parameters()))
    before = tokens(model, texts)
    changes.add_adapters(model, 2)
    np.testing.assert_allclose(tokens(model, texts), before, atol=1e-6)
    trained = [p for n, p in model[0].named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n, p in model[0].named_parameters() if p.requires_grad)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05)
    changed = tokens(model, texts)
    assert np.abs(changed - before).max() > 1e-3
    changes.merge_adapters(model)
    assert set(dict(model.named_parameters())) == names
    np.testing.assert_allclose(tokens(model, texts), changed, atol=1e-5)
    # And what was merged can be taken back.
    interpolate(model, teacher, 0.0)
    np.testing.assert_allclose(tokens(model, texts), before, atol=1e-5)


def test_half_way_back(teacher):
    model = student_of(teacher)
    freeze_word_embeddings(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    moved, start = weights(model), weights(teacher)
    # Frozen after it moved, as lower layers are after masked words were learnt.
    model[0].auto_model.requires_grad_(False)
    interpolate(model, teacher, 0.25)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), start[name] + 0.25 * (moved[name] - start[name]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: interpolate(m, m, 1.5), "share: expected a number in 0..1, got 1.5"),
        (lambda m: stages.mine_bitext(m, m, [], ["a"]), "expected text on both sides"),
        (lambda m: stages.continue_mlm(m, [], {}), "texts: expected at least one"),
        (lambda m: changes.add_adapters(m, 0), "adapter_rank: expected at least 1"),
    ],
)
def test_bad_input(teacher, call, message):
    with pytest.raises(InputError, match=message):
        call(student_of(teacher))
