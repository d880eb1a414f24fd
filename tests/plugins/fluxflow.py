"""FluxFlow's configurations in tests: the examples of its pages, and a small folder in which they train in a second."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fluxflow_pipeline import command
from fluxflow_pipeline.config.reader import read_config
from fluxflow_pipeline.translation.translate import Translation, translate
from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.run.observers import Observers
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry

FILES = Path(__file__).parent / "fluxflow_files"

#: Sections that the pages omit, since FluxFlow takes them from its command line.
DATA = "data: {data_path: pictures, captions_file: captions.txt, img_size: 32}\n"
MODEL = "model: {vae_dim: 4, feature_maps_dim: 8, text_embedding_dim: 8}\n"

IMAGES, SIDE = 8, 32


def example(name: str) -> str:
    """An example of FluxFlow's pages, word for word."""
    return (FILES / f"{name}.yaml").read_text()


def whole(text: str) -> str:
    """An example with the sections that it omits."""
    return text + "".join(part for part in (DATA, MODEL) if f"{part.split(':')[0]}:" not in text)


def step(fragment: str, **keys: Any) -> str:
    """A configuration whose one step has the keys of an example of keys."""
    added = {"n_epochs": 1, **keys}
    own = {line.split(":")[0] for line in fragment.splitlines()}
    lines = [f"{key}: {json.dumps(value)}" for key, value in added.items() if key not in own]
    body = textwrap.indent("\n".join(["name: one", *lines, fragment.strip()]), " " * 8)
    return f"training:\n  pipeline:\n    steps:\n      - {body.strip()}\n"


def write_images(folder: Path) -> None:
    """Write a folder of small images, and their captions."""
    (folder / "pictures").mkdir(exist_ok=True)
    noise = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / "pictures" / f"{index}.png")
    (folder / "captions.txt").write_text("".join(f"{i}.png\tpicture {i} of many\n" for i in range(IMAGES)))


def short(made: Translation, batches: int = 4) -> Iterator[str]:
    """Settings with which the recipe trains in a second."""
    for name, node in made.recipe.plain()["steps"].items():
        yield from (f"steps.{name}.{key}" for key in (f"epochs={1}", f"max_steps={batches}", "workers=0"))
        if "until" in node:
            yield f"steps.{name}.until.max_epochs=1"
        if "lpips" in node["updates"].get("vae", {}).get("losses", ()):
            yield f"steps.{name}.updates.vae.losses.lpips={{weight: 0.1, net: squeeze, random: true}}"
    if "flow_processor" in made.recipe.plain()["models"]:
        yield from ("models.flow_processor.depth=1", "models.text_encoder.depth=1")


@frozen
class Done:
    """The result of `fluxflow-train`."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def runs(self) -> list[Path]:
        """The runs' folders."""
        return sorted(path.parent for path in self.folder.rglob("run.json"))

    def inside(self, folder: str) -> Done:
        """The same result, for the runs in one folder alone."""
        return evolve(self, folder=self.folder / folder)

    @property
    def run(self) -> Path:
        """The one run's folder."""
        (run,) = self.runs
        return run

    def weights(self, step: str) -> dict[str, dict[str, Tensor]]:
        """The weights of all models at the end of a step."""
        (end,) = (self.run / "checkpoints").glob(f"*-{step}-end")
        files = end.glob("model.*.safetensors")
        return {path.name.split(".")[1]: load_file(path) for path in files}

    def before(self, registry: Registry) -> dict[str, dict[str, Tensor]]:
        """The initial weights of the run."""
        models = build_models(check(self.run / "recipe.yaml", registry), torch.device("cpu"))
        return {name: dict(model.state_dict()) for name, model in models.items()}

    def recipe(self) -> dict[str, Any]:
        """The recipe that was trained."""
        plain: dict[str, Any] = read(self.run / "recipe.yaml").plain()
        return plain


def translated(folder: Path, text: str) -> Translation:
    """The recipe of a configuration."""
    path = folder / "config.yaml"
    path.write_text(text)
    return translate(read_config(path))


def drive(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, *arguments: str, short_by: int | None = 4
) -> Done:
    """Run `fluxflow-train` on a configuration in this process."""
    (folder / "config.yaml").write_text(text)
    settings = [*short(translated(folder, text), short_by)] if short_by else []
    flags = [item for setting in settings for item in ("--set", setting)]
    with pytest.raises(SystemExit) as left:
        command.run(["--config", "config.yaml", "--device", "cpu", *flags, *arguments])
    out, err = capsys.readouterr()
    return Done(int(left.value.code or 0), out, err, folder)


def moved(before: Mapping[str, Mapping[str, Tensor]], after: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
    """The models of which some parameter has changed; buffers, such as the latent's scale, do not count."""
    return {
        model
        for model in before
        for name, tensor in before[model].items()
        if tensor.ndim and not torch.equal(tensor, after[model][name])
    }


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> Iterator[None]:
    """Request a run to stop, as a signal does, after so many of its batches."""
    notify = Observers.notify

    def stopping(observers: Observers, event: str, **facts: Any) -> None:
        notify(observers, event, **facts)
        if event == "batch_ended" and facts["position"].run_batch == batches:
            observers._run.engine.stopping = "SIGTERM"  # type: ignore[attr-defined]

    with monkeypatch.context() as patched:
        patched.setattr(Observers, "notify", stopping)
        yield
