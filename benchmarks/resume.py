"""Time to resume at sample 1,000,000 of a dataset of shards relative to sample 100.

    python benchmarks/resume.py [--samples 1100000] [--rounds 15] [--batch-size 32]

The dataset is one tar file of small images under many names (hard links), each with an index of its own. The timed
part is everything from opening the dataset to the first batch at the position: reading the kept indexes, computing
the order of the epoch, finding and decoding the samples. The two positions alternate, so that the load of the machine
affects both. The result is the median over the rounds of (late / early).
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import webdataset
from PIL import Image

from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry.engine.data.batches import epoch_batches

#: Samples of one tar file: 20 MB.
PER_SHARD = 10_000
EARLY, LATE = 100, 1_000_000


def write_shard(path: Path) -> None:
    """Write images of one pixel, in many colors."""
    with webdataset.TarWriter(str(path), mtime=0) as writer:
        for number in range(PER_SHARD):
            stream = io.BytesIO()
            Image.new("RGB", (1, 1), (number % 256, number // 256 % 256, 0)).save(stream, "PNG")
            writer.write({"__key__": f"{number:06}", "png": stream.getvalue(), "txt": f"image {number}"})


def write_shards(folder: Path, samples: int) -> str:
    """Write one shard, with enough names for more than `samples` samples; returns the `shards` of a recipe."""
    count = -(-samples // PER_SHARD)
    first = folder / "000000.tar"
    write_shard(first)
    for number in range(1, count):
        os.link(first, folder / f"{number:06}.tar")
    return f"{folder}/{{000000..{count - 1:06}}}.tar"


def resume(shards: str, sample: int, batch_size: int, epoch: int) -> float:
    """Seconds from opening the dataset to the batch with the sample at this position of the epoch's order."""
    begin = time.perf_counter()
    source = WebDataset(shards=shards, image_size=1)()
    start = sample // batch_size
    batch = next(iter(epoch_batches(source, batch_size, len(source) // batch_size, start, 0, ("step", epoch))))
    seconds = time.perf_counter() - begin
    assert len(batch.indices) == batch_size
    return seconds


def compare(shards: str, rounds: int, batch_size: int) -> dict[int, list[float]]:
    """Seconds of each round at both positions, each round in another epoch and starting with the other position."""
    seconds: dict[int, list[float]] = {EARLY: [], LATE: []}
    for number in range(rounds):
        for sample in (EARLY, LATE) if number % 2 else (LATE, EARLY):
            seconds[sample].append(resume(shards, sample, batch_size, number))
    return seconds


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something took."""
    begin = time.perf_counter()
    yield
    print(f"{what:<28} {time.perf_counter() - begin:8.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.samples < LATE + PER_SHARD:
        parser.error(f"--samples: {LATE + PER_SHARD:,} at least")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FLUXFLOW_HOME"] = str(folder / "home")
        shards = write_shards(folder, arguments.samples)
        with timed("first opening (indexes)"):
            source = WebDataset(shards=shards, image_size=1)()
        print(f"{'samples':<28} {len(source):10,}")
        del source
        with timed("second opening (cached)"):
            WebDataset(shards=shards, image_size=1)()
        seconds = compare(shards, arguments.rounds, arguments.batch_size)
        kept = sum(path.stat().st_size for path in folder.glob("home/index/*"))
        print(f"{'indexes on disk':<28} {kept / 1e6:7.1f} MB")
    print(f"{'peak memory of the process':<28} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:7.1f} MB")
    for sample, each in seconds.items():
        print(f"first batch at {sample:>9,}     {statistics.median(each):8.3f} s")
    ratios = [late / early for early, late in zip(seconds[EARLY], seconds[LATE], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"late / early {middle:.3f}  (quartiles {low:.3f} .. {high:.3f})")


if __name__ == "__main__":
    main()
