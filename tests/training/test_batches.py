"""Batches that keep languages apart, mix them, or pair them."""

import numpy as np
import pytest
from optical_rs import InputError

datasets = pytest.importorskip("datasets")

from optical_rs.training.batches import HybridBatchSampler, LengthBucketBatchSampler  # noqa: E402

LANGUAGES = ["ny"] * 50 + ["yo"] * 30 + ["sw"] * 7


def grouped(order, seed=0, drop_last=False):
    dataset = datasets.Dataset.from_dict({"foreign": ["x" * (i % 13) for i in range(len(LANGUAGES))]})
    return LengthBucketBatchSampler(dataset, 8, drop_last, groups=LANGUAGES, order=order, seed=seed)


@pytest.mark.parametrize("order", ["mixed", "pure", "sequential"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_has_every_row_once(order, drop_last):
    sampler = grouped(order, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    seen = sorted(row for batch in batches for row in batch)
    assert len(set(seen)) == len(seen)
    if not drop_last:
        assert seen == list(range(len(LANGUAGES)))
    languages = [{LANGUAGES[row] for row in batch} for batch in batches]
    assert all(len(found) == 1 for found in languages) == (order != "mixed")
    if order == "sequential":
        flat = [next(iter(found)) for found in languages]
        assert flat == sorted(flat, key=["ny", "yo", "sw"].index)


def test_epochs_differ_and_come_back():
    sampler = grouped("pure")
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_schedule_gives_each_epoch_its_shares():
    dataset = datasets.Dataset.from_dict({"foreign": ["x" * (i % 13) for i in range(len(LANGUAGES))]})
    schedule = [[1, 0, 0], [2, 1, 1], [0, 0, 1]]
    sampler = LengthBucketBatchSampler(dataset, 8, False, groups=LANGUAGES, schedule=schedule, seed=3)
    assert len(sampler) == 7, "50 rows, as many as the first group has"
    want = [{"ny": 50}, {"ny": 25, "yo": 13, "sw": 12}, {"sw": 50}, {"sw": 50}]
    for epoch, counts in enumerate(want):
        sampler.set_epoch(epoch)
        rows = [row for batch in sampler for row in batch]
        assert len(list(sampler)) == 7
        found = {name: sum(LANGUAGES[row] == name for row in rows) for name in counts}
        assert all(abs(found[name] - count) <= 1 for name, count in counts.items())
        assert sum(found.values()) == len(rows) == 50
        # Nothing a second time before everything was there once.
        times = np.bincount(rows, minlength=len(LANGUAGES))
        for name in counts:
            own = times[[language == name for language in LANGUAGES]]
            assert own.max() - own.min() <= 1


@pytest.mark.parametrize(
    ("schedule", "order", "message"),
    [
        ([[1, 0]], "mixed", "a share for each of 3 groups"),
        ([[0, 0, 0]], "mixed", "a share for each of 3 groups"),
        ([[1, -1, 1]], "mixed", "a share for each of 3 groups"),
        ([], "mixed", "the shares of an epoch at least"),
        ([[1, 1, 1]], "pure", "needs mixed batches"),
    ],
)
def test_bad_schedules(schedule, order, message):
    dataset = datasets.Dataset.from_dict({"foreign": ["x"] * len(LANGUAGES)})
    with pytest.raises(InputError, match=message):
        LengthBucketBatchSampler(dataset, 8, False, groups=LANGUAGES, order=order, schedule=schedule)


def hybrid(alpha=0.5, weights="uniform", seed=0, languages=("ny", "yo", "sw"), size=8):
    rows = [(m, name) for name in languages for m in range({"ny": 40, "yo": 30, "sw": 10}[name])]
    dataset = datasets.Dataset.from_dict({"query": ["q"] * len(rows), "passage": ["p"] * len(rows)})
    messages, names = zip(*rows, strict=True)
    sampler = HybridBatchSampler(
        dataset, size, False, messages=messages, languages=names, alpha=alpha, weights=weights, seed=seed
    )
    return sampler, rows


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_batch_is_in_one_language_or_in_two(alpha):
    sampler, rows = hybrid(alpha)
    kinds = []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 10
        for batch in batches:
            half = len(batch) // 2
            asked, answered = ([rows[i] for i in part] for part in (batch[:half], batch[half:]))
            assert half == 8
            assert [m for m, _ in asked] == [m for m, _ in answered]
            assert len({m for m, _ in asked}) == half
            (one,), (other,) = ({name for _, name in side} for side in (asked, answered))
            kinds.append(one == other)
    assert np.mean(kinds) == pytest.approx(alpha, abs=0.1)


def test_languages_are_drawn_alike_or_by_size():
    for weights, want in (("uniform", 1 / 3), ("size", 40 / 80)):
        sampler, rows = hybrid(1.0, weights)
        names = []
        for epoch in range(60):
            sampler.set_epoch(epoch)
            names += [rows[batch[0]][1] for batch in sampler]
        assert np.mean([name == "ny" for name in names]) == pytest.approx(want, abs=0.08)


def test_a_resumed_run_and_each_process_see_the_same_batches():
    whole = list(hybrid()[0])
    # The trainer skips what was seen; accelerate gives every process whole batches in turn.
    assert list(hybrid()[0])[4:] == whole[4:]
    from accelerate.data_loader import BatchSamplerShard

    shards = [list(BatchSamplerShard(hybrid()[0], num_processes=2, process_index=i)) for i in range(2)]
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == whole
    assert list(hybrid(seed=1)[0]) != whole


def test_pairs_are_made_of_a_batch(teacher):
    from optical_rs.training.batches import HybridCollator

    rows = [{"query": f"the dog {i}", "passage": f"the child {i}"} for i in range(4)]
    collator = HybridCollator(preprocess_fn=teacher.preprocess)
    batch = collator(rows)
    words = teacher.tokenizer.convert_ids_to_tokens
    assert "dog" in words(batch["query_input_ids"][0])
    assert "child" in words(batch["passage_input_ids"][1])
    assert len(batch["query_input_ids"]) == len(batch["passage_input_ids"]) == 2
    assert (batch["query_task"], batch["passage_task"]) == ("query", "document")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped("pur"), "order: unknown order 'pur'; did you mean 'pure'"),
        (lambda: hybrid(1.5), "alpha: expected a probability, got 1.5"),
        (lambda: hybrid(weights="large"), "weights: expected 'uniform' or 'size'"),
        (lambda: hybrid(size=16), "languages: 'sw' has 10 texts, fewer than a batch of 16"),
        (lambda: hybrid(languages=("ny",)), "languages: cross-lingual batches need two"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
