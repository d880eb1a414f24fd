"""Counter-based randomness: each draw is seeded from its position, so no generator state is kept."""

from __future__ import annotations

import os
from hashlib import blake2b

import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of its parts (BLAKE2b of their text)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def prefer_repeatable(device: torch.device) -> None:
    """On a GPU let torch choose kernels that give the same bits every time, and warn of those that cannot."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # No code reads uninitialized memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


class Draws:
    """Generators for the values of one batch: each seeded from (prefix, name).

    `prefix` is the seed of (run seed, step, position); adding a value does not change the
    noise of another. On the meta device there are no numbers and the generator is None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generators: dict[str, torch.Generator] = {}
        self.salts: dict[str, int] = {}
        self.prefix = 0

    def at(self, *place: int | str) -> None:
        """Move to another place of the run; previously returned generators become invalid."""
        self.prefix = derive(*place)

    def generator(self, name: str) -> torch.Generator | None:
        """The generator of the value `name` at this place."""
        if self.device.type == "meta":
            return None
        generator = self.generators.get(name)
        if generator is None:
            generator = self.generators[name] = torch.Generator(device=self.device)
            self.salts[name] = derive(name)
        # Two well-mixed 63-bit numbers stay well mixed under exclusive or.
        generator.manual_seed(self.prefix ^ self.salts[name])
        return generator

    def seed_global(self, name: str) -> None:
        """Seed torch's own generators, from which layers such as dropout draw."""
        if self.device.type != "meta":
            self.salts.setdefault(name, derive(name))
            seed = self.prefix ^ self.salts[name]
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            elif self.device.type == "mps":
                torch.mps.manual_seed(seed)
