"""MaxSim with gradients: against torch in double precision, and in sentence-transformers' loss."""

import numpy as np
import optical_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optical_rs import InputError

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

from optical_rs.similarity.torch_ops import maxsim_scores  # noqa: E402


def problem(seed, queries, groups, n, tokens, dim, empty=False):
    rng = np.random.default_rng(seed)
    q = torch.from_numpy(rng.normal(size=(queries, tokens, dim)).astype(np.float32))
    d = torch.from_numpy(rng.normal(size=(groups, n, tokens + 2, dim)).astype(np.float32))
    least = 0 if empty else 1
    q_mask = torch.arange(tokens) < torch.from_numpy(rng.integers(least, tokens + 1, (queries, 1)))
    d_mask = torch.arange(tokens + 2) < torch.from_numpy(rng.integers(least, tokens + 3, (groups, n, 1)))
    # Real tokens need not come first.
    return q, d, q_mask.flip(1), d_mask


def gradients(q, d, *rest, weights, **options):
    q, d = q.clone().requires_grad_(), d.clone().requires_grad_()
    scores = maxsim_scores(q, d, *rest, **options)
    finite = torch.isfinite(scores)
    torch.where(finite, scores * weights.to(scores.dtype), 0.0).sum().backward()
    return scores.detach(), q.grad, d.grad


@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_equals_torch_in_double_precision(seed, queries, groups, n, normalise, empty):
    q, d, q_mask, d_mask = problem(seed, queries, groups, n, 6, 5, empty)
    weights = torch.randn(queries, groups * n, generator=torch.Generator().manual_seed(seed))
    options = {"weights": weights, "length_normalize": normalise}
    got = gradients(q, d, q_mask, d_mask, **options)
    want = gradients(q.double(), d.double(), q_mask, d_mask, **options)
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


def test_equals_the_scores_it_replaces():
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    q, d, q_mask, d_mask = problem(0, 7, 7, 2, 9, 16)
    for normalise in (False, True):
        ours = maxsim_scores(q, d, q_mask, d_mask, length_normalize=normalise)
        theirs = colbert_scores(q, d, q_mask, d_mask, length_normalize=normalise)
        torch.testing.assert_close(ours, theirs)


def test_half_precision_and_autocast_train():
    q, d, q_mask, d_mask = problem(1, 3, 3, 1, 5, 8)
    q = q.bfloat16().requires_grad_()
    maxsim_scores(q, d.bfloat16(), q_mask, d_mask).sum().backward()
    assert q.grad.dtype == torch.bfloat16
    assert q.grad.abs().sum() > 0


def test_operators_keep_torch_rules():
    q, d, _, _ = problem(2, 3, 2, 1, 4, 6)
    offsets = torch.tensor([0, 5, 12])
    packed = (q.reshape(-1, 6).requires_grad_(), offsets, d.reshape(-1, 6).requires_grad_(), offsets)
    for own in (None, 1):
        torch.library.opcheck(torch.ops.optical_rs.maxsim.default, (*packed, own))


def test_padding_and_threads_change_nothing():
    q, d, q_mask, d_mask = problem(3, 4, 4, 2, 33, 32)
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    before = gradients(q, d, q_mask, d_mask, weights=weights)
    q[~q_mask] = torch.nan
    d[~d_mask] = torch.inf
    try:
        optical_rs.set_num_threads(1)
        after = gradients(q, d, q_mask, d_mask, weights=weights)
    finally:
        optical_rs.set_num_threads(0)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("normalise", [False, True])
def test_pairs_and_distillation_equal_the_scores_they_replace(normalise):
    from optical_rs.similarity.torch_ops import maxsim_kd_scores, maxsim_scores_pairwise
    from sentence_transformers.multi_vector_encoder.scoring import colbert_kd_scores, colbert_scores_pairwise

    q, d, q_mask, d_mask = problem(4, 5, 5, 3, 9, 16)
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))

    def slopes(score, documents, mask, weights):
        leaves = q.clone().requires_grad_(), documents.clone().requires_grad_()
        scores = score(*leaves, queries_mask=q_mask, documents_mask=mask, length_normalize=normalise)
        return scores.detach(), *torch.autograd.grad((scores * weights).sum(), leaves)

    for mine, theirs, rest in (
        (maxsim_kd_scores, colbert_kd_scores, (d, d_mask, weights)),
        (maxsim_scores_pairwise, colbert_scores_pairwise, (d[:, 0], d_mask[:, 0], weights[:, 0])),
    ):
        for one, other in zip(slopes(mine, *rest), slopes(theirs, *rest), strict=True):
            torch.testing.assert_close(one, other)
        doubles = mine(q.double(), rest[0].double(), q_mask, rest[1], length_normalize=normalise)
        torch.testing.assert_close(
            doubles.float(), mine(q, *rest[:1], q_mask, rest[1], length_normalize=normalise)
        )
    with pytest.raises(InputError, match="documents for 5 queries, got 4"):
        maxsim_kd_scores(q, d[:4])


def test_numbers_that_are_not_finite_are_refused_by_name():
    q, d, _, _ = problem(5, 2, 2, 1, 4, 6)
    d[1, 0, 3, 2] = torch.nan
    with pytest.raises(InputError, match="documents: text 1 has NaN in token 3"):
        maxsim_scores(q, d)


def test_the_gradient_compares_dimensions():
    from optical_rs import _core

    q, d, offsets = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), np.array([0, 2])
    matched, weights = np.zeros((1, 2), np.int32), np.ones((1, 1), np.float32)
    with pytest.raises(InputError, match="documents: expected dimension 3"):
        _core.maxsim_gradient(q, offsets, d, offsets, matched, weights, None)


def test_a_contrastive_loss_trains_alike(teacher, pairs):
    from optical_rs.models import student_of
    from sentence_transformers.multi_vector_encoder import losses

    model = student_of(teacher).eval()
    columns = [model.preprocess([pair[side] for pair in pairs]) for side in (0, 1)]
    kind = losses.MultiVectorMultipleNegativesRankingLoss
    found = []
    for options in ({}, {"similarity_fct": maxsim_scores}):
        model.zero_grad()
        loss = kind(model, **options)([dict(c) for c in columns], labels=None)
        loss.backward()
        grad = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (a[0][0], *a[1:]), "queries_embeddings: expected 3 dimensions"),
        (lambda a: (a[0], a[1][:, 0], *a[2:]), "documents_embeddings: expected 4 dimensions"),
        (lambda a: (a[0][..., :3], *a[1:]), "documents_embeddings: expected dimension 3"),
        (lambda a: (*a[:2], a[2][:1], a[3]), "queries_mask: expected shape"),
    ],
)
def test_bad_shapes_are_named(change, message):
    with pytest.raises(InputError, match=message):
        maxsim_scores(*change(problem(0, 2, 2, 1, 3, 4)))
