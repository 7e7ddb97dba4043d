"""Global batches: completeness, keys, and independence from the number of ranks."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.sampling import ClassUniform, Draws, GlobalBatches, partners


def rows(batches: GlobalBatches, epoch: int) -> list[list[tuple[int, int]]]:
    """Return the sample and key of every row of every step."""
    return [
        list(zip(draws.samples.tolist(), draws.keys.tolist(), strict=True))
        for draws in batches.epoch(epoch)
    ]


@given(st.integers(1, 40), st.integers(4, 12), st.integers(0, 5))
def test_global_batches_do_not_depend_on_rank_count(samples: int, batch: int, epoch: int) -> None:
    single_rank = rows(GlobalBatches(samples, 7, batch), epoch)
    for world in (2, 3, 4):
        shares = [
            rows(GlobalBatches(samples, 7, batch, rank, world), epoch) for rank in range(world)
        ]
        joined = [list(chain(*steps)) for steps in zip(*shares, strict=True)]
        assert joined == single_rank


@given(st.integers(1, 60), st.integers(1, 12))
def test_epoch_draws_every_sample_and_fills_every_batch(samples: int, batch: int) -> None:
    batches = GlobalBatches(samples, 0, batch)
    steps = rows(batches, 0)
    assert len(steps) == len(batches) == -(-samples // batch)
    assert {len(step) for step in steps} == {batch}
    drawn = [row for step in steps for row in step]
    assert sorted(sample for sample, _ in drawn[:samples]) == list(range(samples))
    assert len(set(drawn)) == len(drawn)  # a repeated sample has another key, so another crop


@given(st.integers(1, 60), st.sampled_from([2, 4, 8]), st.integers(0, 3))
def test_micro_batches_of_a_step_are_the_whole_batch(
    samples: int, micro_batches: int, epoch: int
) -> None:
    whole = rows(GlobalBatches(samples, 7, 8), epoch)
    cut = GlobalBatches(samples, 7, 8 // micro_batches, micro_batches=micro_batches)
    batches = rows(cut, epoch)
    assert len(batches) == len(cut) == micro_batches * len(whole)
    assert list(chain(*batches)) == list(chain(*whole))
    resumed = [draws.samples.tolist() for draws in cut.epoch(epoch, first_step=1)]
    assert resumed == [[sample for sample, _ in batch] for batch in batches[micro_batches:]]


def test_epoch_resumes_at_any_step() -> None:
    batches = GlobalBatches(23, 0, 4)
    whole = rows(batches, 2)
    rest = [draws.samples.tolist() for draws in batches.epoch(2, first_step=3)]
    assert rest == [[sample for sample, _ in step] for step in whole[3:]]


def test_seed_and_epoch_change_the_order() -> None:
    orders = {
        tuple(np.concatenate([draws.samples for draws in GlobalBatches(30, seed, 5).epoch(epoch)]))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_seed_and_epoch_change_the_key_of_every_sample() -> None:
    keys = {
        key
        for seed in range(3)
        for epoch in range(3)
        for step in rows(GlobalBatches(30, seed, 5), epoch)
        for _, key in step
    }
    assert len(keys) == 3 * 3 * 30


def test_partner_draws_its_own_numbers_and_depends_on_the_key_alone() -> None:
    keys = np.arange(-100, 100)
    draws = Draws(np.zeros(200, np.int64), keys, np.full((200, 2), 7))
    chosen = partners(draws, samples=6)
    assert set(chosen.samples.tolist()) == set(range(6))
    assert len(set(chosen.keys.tolist()) | set(keys.tolist())) == 400
    assert (chosen.contained == -1).all()
    others = partners(Draws(keys[::-1], keys, draws.contained), samples=6)
    assert np.array_equal(others.samples, chosen.samples)
    assert np.array_equal(others.keys, chosen.keys)


def test_more_ranks_than_rows_are_rejected() -> None:
    with pytest.raises(ValueError, match="batch of 2 cannot be shared by 3 workers"):
        GlobalBatches(10, 0, 2, rank=0, world=3)


def centroids_of(counts: list[int]) -> np.ndarray:
    """Return `counts[c]` centroids of class c, spread over samples, with distinct positions."""
    rows = [(i * 7 % 30, c, i, c) for c, count in enumerate(counts) for i in range(count)]
    return np.array(rows, dtype=np.int64)


@given(st.floats(0, 1), st.integers(0, 3))
def test_class_uniform_draws_classes_equally_often(fraction: float, epoch: int) -> None:
    centroids = centroids_of([40, 0, 3, 17])
    batches = GlobalBatches(30, 0, 5, class_uniform=ClassUniform(fraction, centroids))
    draws = batches.epoch(epoch)
    contained = np.concatenate([draw.contained for draw in draws])
    samples = np.concatenate([draw.samples for draw in draws])
    is_class_uniform = contained[:, 0] >= 0
    assert is_class_uniform.sum() == round(30 * fraction)
    counts = np.bincount(contained[is_class_uniform, 1], minlength=4)
    assert counts[1] == 0
    assert np.ptp(counts[[0, 2, 3]]) <= 1
    available = {(sample, row, index) for sample, index, row, _ in centroids.tolist()}
    assert {
        (s, r, c)
        for s, (r, c) in zip(
            samples[is_class_uniform].tolist(), contained[is_class_uniform].tolist(), strict=True
        )
    } <= available
    # The other rows of the epoch repeat no image.
    assert len(np.unique(samples[~is_class_uniform])) == (~is_class_uniform).sum()


def test_centroids_of_a_class_are_all_used_before_one_is_repeated() -> None:
    uniform = ClassUniform(1.0, centroids_of([40, 0, 3, 17]))
    used = []
    for epoch in range(3):
        draws = GlobalBatches(30, 0, 5, class_uniform=uniform).epoch(epoch)
        contained = np.concatenate([draw.contained for draw in draws])
        rows_of = {c: contained[contained[:, 1] == c, 0] for c in (0, 2, 3)}
        assert len(set(rows_of[0])) == len(set(rows_of[3])) == 10
        assert sorted(np.bincount(rows_of[2])) == [3, 3, 4]
        used.append(frozenset(rows_of[0]))
    assert len(set(used)) == 3  # other ones in each epoch


def test_class_uniform_draws_are_spread_over_the_epoch() -> None:
    uniform = ClassUniform(0.5, centroids_of([40, 3, 17]))
    for epoch in range(3):
        draws = GlobalBatches(200, 0, 50, class_uniform=uniform).epoch(epoch)
        counts = [int((batch.contained[:, 0] >= 0).sum()) for batch in draws]
        assert sum(counts) == 100
        # Without replacement, the standard deviation of a batch of 50 is 3.1.
        assert all(10 <= count <= 40 for count in counts)


def test_class_uniform_batches_do_not_depend_on_rank_count_and_keys_are_distinct() -> None:
    uniform = ClassUniform(0.5, centroids_of([2, 5, 1]))
    single_rank = GlobalBatches(23, 1, 6, class_uniform=uniform).epoch(4)
    for world in (2, 3, 4):
        shares = [GlobalBatches(23, 1, 6, r, world, uniform).epoch(4) for r in range(world)]
        for whole, *parts in zip(single_rank, *shares, strict=True):
            for name in ("samples", "keys", "contained"):
                joined = np.concatenate([getattr(part, name) for part in parts])
                assert np.array_equal(joined, getattr(whole, name))
    keys = np.concatenate([draws.keys for draws in single_rank])
    assert len(np.unique(keys)) == len(keys)
