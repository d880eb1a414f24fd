"""An epoch is an order of samples: batches of one bucket each, in all their views, from any batch on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry import DataError, Problem, SampleError
from fluxflow_registry.contracts import Field, variants
from fluxflow_registry.engine.data.batches import Reader, epoch_batches
from fluxflow_registry.engine.data.order import (
    batch_counts,
    batches_per_epoch,
    epoch_order,
    first_bucket,
    first_samples,
    permutation,
)
from fluxflow_registry.engine.data.survey import damaged_at_opening, leftovers
from fluxflow_registry.errors import Place

PLACE = (0, "step", "data", 1)


class Bucketed:
    """Numbers in buckets, some of which cannot be read; every call is recorded."""

    def __init__(self, buckets: Sequence[int], damaged: Sequence[int] = (), views: int = 1) -> None:
        self.buckets = np.array(buckets, dtype=np.int64)
        self.damaged, self.views = damaged, views
        self.calls: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.buckets)

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        self.calls.append(list(indices))
        bad = {index: Problem("is damaged", f"number {index}") for index in indices if index in self.damaged}
        if bad:
            raise SampleError(bad)
        return {"number": torch.tensor(list(indices))}

    def view(self, fields: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {"number": fields["number"] * 10 + number}

    def bucket_name(self, number: int) -> str:
        return f"b{number}"


def numbers(source: Bucketed, size: int, start: int = 0, workers: int = 0, place: Any = PLACE) -> list[list[int]]:
    count = batches_per_epoch(source, "data", size, None, Place("here"))
    return [b.fields["number"].tolist() for b in epoch_batches(source, size, count, start, workers, place)]


MIXED = [0, 1, 1, 0, 2, 0, 1, 0, 0, 1, 0, 2, 1, 0, 1, 1, 0, 0, 1, 2, 0, 1]


@given(buckets=st.lists(st.integers(0, 4), min_size=1, max_size=60), size=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_batch_is_full_and_of_one_bucket_and_no_sample_is_repeated(
    buckets: list[int], size: int, epoch: int
) -> None:
    source = Bucketed(buckets)

    order = epoch_order(source, size, (7, "step", "data", epoch)).tolist()

    batches = [order[start : start + size] for start in range(0, len(order), size)]
    assert all(len(batch) == size and len({buckets[index] for index in batch}) == 1 for batch in batches)
    assert len(set(order)) == len(order)
    expected = {number: count // size for number, count in Counter(buckets).items()}
    assert Counter(buckets[batch[0]] for batch in batches) == Counter(expected)


def test_batches_of_all_buckets_are_shuffled_and_different_samples_are_left_over_in_each_epoch() -> None:
    source = Bucketed([0] * 50 + [1] * 53)

    orders = [epoch_order(source, 5, (0, "step", "data", epoch)).tolist() for epoch in range(6)]

    kinds = [[source.buckets[order[place]] for place in range(0, 100, 5)] for order in orders]
    changes = [sum(a != b for a, b in itertools.pairwise(row)) for row in kinds]
    assert min(changes) >= 4, "buckets would come one after the other with a single change"
    assert len({tuple(order) for order in orders}) == 6
    assert len({frozenset(range(103)) - set(order) for order in orders}) > 1
    assert epoch_order(source, 5, (0, "step", "data", 2)).tolist() == orders[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_does_not_depend_on_the_number_of_workers_or_on_the_first_batch(workers: int) -> None:
    source = Bucketed(MIXED, damaged=[3, 9], views=2)

    alone = numbers(source, 3)

    assert numbers(source, 3, workers=workers) == alone
    assert [numbers(source, 3, start) for start in range(len(alone))] == [alone[k:] for k in range(len(alone))]


def test_a_damaged_sample_is_replaced_by_one_of_the_same_bucket() -> None:
    expected = numbers(Bucketed(MIXED), 3)
    last = [batch[-1] for batch in expected[:3]]  # behind each comes a batch that may be of another bucket
    source = Bucketed(MIXED, damaged=last)

    given_ = numbers(source, 3)

    assert not set(last) & set(itertools.chain(*given_))
    pairs = list(zip(itertools.chain(*expected), itertools.chain(*given_), strict=True))
    assert all(source.buckets[a] == source.buckets[b] for a, b in pairs)
    assert all(a == b for a, b in pairs if a not in last)


def test_a_bucket_of_only_damaged_samples_is_an_error_even_if_other_buckets_are_undamaged() -> None:
    with pytest.raises(DataError, match="is damaged"):
        numbers(Bucketed([0, 0, 1, 1], damaged=[2, 3]), 2)


def test_every_batch_is_read_once_and_shown_in_all_views_in_order() -> None:
    source = Bucketed([0] * 6, views=3)

    read = list(epoch_batches(source, 2, 9, 0, 0, PLACE))

    assert len(source.calls) == 3
    assert [batch.view for batch in read] == [0, 1, 2] * 3
    assert [batch.indices for batch in read[::3]] == [batch.indices for batch in read[2::3]]


def test_resuming_between_the_views_of_a_batch_reads_that_batch_and_shows_the_remaining_views() -> None:
    source = Bucketed([0] * 6, views=3)
    whole = [(batch.indices, batch.view) for batch in epoch_batches(source, 2, 9, 0, 0, PLACE)]

    for start in range(9):
        source.calls.clear()
        rest = [(batch.indices, batch.view) for batch in epoch_batches(source, 2, 9, start, 0, PLACE)]

        assert rest == whole[start:]
        assert len(source.calls) == 3 - start // 3


def test_the_number_of_batches_counts_views_but_max_steps_does_not() -> None:
    source = Bucketed(MIXED, views=3)

    counted = [batches_per_epoch(source, "data", 4, most, Place("here")) for most in (None, 2, 99)]

    full = sum(count // 4 for count in Counter(MIXED).values())
    assert counted == [3 * full, 6, 3 * full]


def test_without_buckets_an_epoch_is_a_plain_permutation() -> None:
    class Plain:
        def __len__(self) -> int:
            return 10

        def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
            return {}

    assert torch.equal(epoch_order(Plain(), 3, PLACE), permutation(10, *PLACE))
    assert leftovers(batch_counts(Plain(), 3)) == "an epoch skips 1 of 10 samples: they do not fill a batch"
    assert first_bucket(Plain()) == range(10)


def test_the_samples_that_fill_no_batch_are_counted_and_buckets_that_are_never_trained_on_are_named() -> None:
    words = leftovers(batch_counts(Bucketed(MIXED), 4))
    enough = leftovers(batch_counts(Bucketed([0, 0, 1, 1]), 2))

    assert words == (
        "an epoch skips 6 of 22 samples: they do not fill a batch; "
        "buckets with fewer than 4 samples are never trained on: b2 (3)"
    )
    assert enough is None


def test_buckets_none_of_which_fills_a_batch_are_an_error() -> None:
    with pytest.raises(DataError, match=r"has at most 10 samples in a bucket, fewer than one batch \(16\)"):
        batches_per_epoch(Bucketed(MIXED), "data", 16, None, Place("here"))


@pytest.mark.parametrize("count", [1, 7, 22])
def test_the_first_samples_are_read_in_batches_of_one_bucket(count: int) -> None:
    source = Bucketed(MIXED, damaged=[0])
    order, spans = first_samples(source, count, 3)
    reader = Reader(source, order, 0)

    read = [reader.read(*span).indices for span in spans]

    assert all(len({source.buckets[index] for index in indices}) == 1 for indices in read)
    assert all(len(indices) <= 3 for indices in read)
    seen = list(itertools.chain(*read))
    assert len(seen) == count
    assert set(range(1, count)) <= set(seen)
    assert 0 not in seen


def test_the_samples_that_may_share_a_batch_with_the_first_are_those_of_its_bucket() -> None:
    assert np.asarray(first_bucket(Bucketed([1, 0, 1, 2, 1]))).tolist() == [0, 2, 4]


def test_of_many_damaged_samples_the_first_are_named_and_all_are_counted() -> None:
    words = damaged_at_opening([Problem("is not an image", f"{number}.png") for number in range(1000)])

    assert words.startswith("skipped 1,000 damaged samples\n    0.png  is not an image\n")
    assert "    7.png  is not an image\n    and 992 more\n" in words


def test_fields_that_vary_vary_together() -> None:
    fields = {
        "image": Field((3, 8, 8), also=((3, 4, 16), (3, 16, 4))),
        "size": Field((2,)),
        "caption": Field(None, "text"),
    }

    found = variants(fields)

    assert [form["image"].shape for form in found] == [(3, 8, 8), (3, 4, 16), (3, 16, 4)]
    assert all(form["size"] is fields["size"] and form["caption"] is fields["caption"] for form in found)
    assert len(variants({"caption": fields["caption"]})) == 1


def test_the_order_of_a_million_samples_in_buckets_takes_less_than_two_seconds() -> None:
    import time

    source = Bucketed((np.arange(1_000_000) * 7919 % 9).tolist())
    seconds = []
    for _ in range(3):
        started = time.process_time()
        order = epoch_order(source, 16, PLACE)
        seconds.append(time.process_time() - started)

    assert min(seconds) < 2
    assert len(order) == batches_per_epoch(source, "data", 16, None, Place("here")) * 16


def test_an_empty_source_has_an_empty_order_and_no_batch() -> None:
    source = Bucketed([])

    assert epoch_order(source, 4, PLACE).tolist() == []
    with pytest.raises(DataError, match=r"dataset `data` has 0 samples, fewer than one batch \(4\)"):
        batches_per_epoch(source, "data", 4, None, Place("here"))
