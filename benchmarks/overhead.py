"""The engine against a hand-written loop: same modules, same mathematics, same data, as a ratio.

    python benchmarks/overhead.py [RECIPE] [--rounds 30] [--batches 20]

Both run in this process, in turn, a few batches at a time, so that the machine's moods meet both.
The figure is the median over the rounds of (engine time / hand-written time); 1.03 is 3% overhead.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, relu

from fluxflow_registry.check.checker import check
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.data.order import with_batches
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run import folder as folders
from fluxflow_registry.engine.run.loop import after_batch
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load

LOG_EVERY = 20
#: One thread: CPU seconds, which other processes do not stretch. More: wall seconds.
CLOCK = time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def engine_loop(checked: RecipePlan, index: int) -> Iterator[None]:
    """The engine, with its hooks and its logging, batch by batch."""
    folder = folders.new(Path(tempfile.mkdtemp()), "overhead", "none")
    run = Run(evolve(checked, observers={}), folder, open_sources(checked), torch.device("cpu"))
    live = run.live = run.prepare(run.plan.steps[index])
    position = Position(step=index)
    for epoch in count():
        for batch in live.batches(epoch, 0):
            live.run(batch, position)
            position = after_batch(run, live, position)
            yield
        live.metrics.close_epoch(live.metrics.summaries())
        position = Position(index, epoch + 1, 0, position.step_batch, position.run_batch)


def written_loop(checked: RecipePlan, index: int) -> Iterator[None]:
    """What one would write by hand for this step of the default recipe."""
    models = build_models(checked, torch.device("cpu"))
    compressor, expander, discriminator = (models[n] for n in ("compressor", "expander", "discriminator"))
    source = open_sources(checked)["shapes"]
    step = with_batches(checked, {"shapes": source}).steps[index]
    vae_parameters = [*compressor.parameters(), *expander.parameters()]
    vae = step.updates["vae"]
    clip = vae.entry.settings.clip_grad_norm
    optimizer = vae.optimizer.instance(vae_parameters)
    total = step.epochs * step.batches
    scheduler = vae.scheduler.instance(optimizer=optimizer, total=total) if vae.scheduler else None
    weight = {label: loss.weight for label, loss in vae.losses.items()}
    adversary = step.updates.get("discriminator")
    d_optimizer = adversary.optimizer.instance(list(discriminator.parameters())) if adversary else None
    r1 = adversary.losses["r1"] if adversary else None
    gamma = r1.component.instance.gamma if r1 else 0.0
    every, scale = (r1.every, r1.weight) if r1 else (1, 0.0)
    blur = step.providers["instance_noise"].instance if adversary else None
    size = step.settings.batch_size
    recent: list[Tensor] = []
    per_read = max(1, 256 // size)

    def batches() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(source))[: step.batches * size]
            for start in range(0, len(order), per_read * size):
                read = source.batch(order[start : start + per_read * size].tolist(), 0)["image"]
                yield from read.split(size)

    def noisy(image: Tensor, number: int) -> Tensor:
        return image + blur.std * blur.decay**number * torch.randn_like(image) if blur else image

    for number, image in enumerate(batches()):
        mean, logvar = compressor(image)
        latent = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        # A second forward of the decoder is what a cut costs by hand; a leaf at the cut saves it.
        at_cut = latent.detach().requires_grad_() if adversary else latent
        reconstruction = expander(at_cut)
        if adversary and d_optimizer:
            real = discriminator(noisy(image, number))
            fake = discriminator(noisy(reconstruction.detach(), number))
            loss = 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())
            if number % every == 0:
                x = image.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(discriminator(x).mean(dim=(1, 2, 3)).sum(), x, create_graph=True)
                loss = loss + scale * 0.5 * gamma * gradient.square().sum(dim=(1, 2, 3)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            d_optimizer.step()
            d_optimizer.zero_grad()
            recent.append(loss.detach())
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp())
        main = weight["mse"] * mse_loss(reconstruction, image) + weight["l1"] * l1_loss(reconstruction, image)
        if adversary:
            discriminator.requires_grad_(False)
            generator = -weight["hinge_generator"] * discriminator(noisy(reconstruction, number)).mean()
            discriminator.requires_grad_(True)
            generator.backward(retain_graph=True, inputs=list(expander.parameters()))
            torch.autograd.backward([main], inputs=[at_cut, *expander.parameters()])
            torch.autograd.backward([latent, weight["kl"] * kl.mean()], [at_cut.grad, None])
        else:
            main = main + weight["kl"] * kl.mean()
            main.backward()
        if clip:
            nn.utils.clip_grad_norm_(vae_parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler and number < total:
            scheduler.step()
        recent.append(main.detach())
        if len(recent) >= LOG_EVERY:
            torch.stack(recent).tolist()
            recent.clear()
        yield


def timed(loop: Iterator[None], batches: int) -> float:
    """Seconds for the next batches of a loop."""
    begin = CLOCK()
    for _ in range(batches):
        next(loop)
    return CLOCK() - begin


def compare(make: tuple[Callable[[], Iterator[None]], ...], rounds: int, batches: int) -> tuple[list[float], float]:
    """The ratio of each round, and the hand-written loop's median milliseconds a batch."""
    mine, theirs = (each() for each in make)
    timed(mine, batches)
    timed(theirs, batches)
    ratios, by_hand = [], []
    for number in range(rounds):
        order = (mine, theirs) if number % 2 else (theirs, mine)
        seconds = {id(loop): timed(loop, batches) for loop in order}
        ratios.append(seconds[id(mine)] / seconds[id(theirs)])
        by_hand.append(1000 * seconds[id(theirs)] / batches)
    return ratios, statistics.median(by_hand)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="recipes/vae_gan_flow.yaml")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    checked: Any = check(arguments.recipe, load())
    for index, step in enumerate(checked.steps[:2]):
        loops = tuple(
            lambda loop=loop, index=index: loop(copy.copy(checked), index) for loop in (engine_loop, written_loop)
        )
        ratios, by_hand = compare(loops, arguments.rounds, arguments.batches)
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"{step.name:<12} engine / hand-written {statistics.median(ratios):.3f}  "
            f"(quartiles {low:.3f} .. {high:.3f}; by hand {by_hand:.2f} ms a batch)"
        )


if __name__ == "__main__":
    main()
