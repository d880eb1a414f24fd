"""Observer `pictures`: what the models draw, as grids in PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen, validators

from fluxflow_registry import Draw, FluxflowError, Position, hookimpl

from .files import write_whole

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView

    from .grid import Pixels

#: Key of the note in a PNG that says which observer drew it.
DRAWN_BY = "fluxflow"


@define
class _Drawn:
    """The picture drawn last, so that a step's end does not draw its last epoch again."""

    place: tuple[str, int] | None = None
    content: bytes = b""


@frozen(eq=False)
class Pictures:
    """Draws a value for the first samples of a dataset, or for given prompts, into PNG grids.

    `samples/<step>_<step no>_<epoch>_<hash>-<value>.png` at the end of each step and every few epochs,
    and the latest of each step as `<step>-<value>.png` in the run's folder. The hash stands for the
    options, so that two observers never write to one file. Pictures below 96 pixels are enlarged by
    a whole factor, pixel by pixel.
    """

    value: str = field(validator=validators.min_len(1))
    """The value to draw, such as `reconstruction` or `generated_image`: [B, 3 or 1, H, W] in [-1, 1]."""
    beside: list[str] = field(factory=list, validator=validators.deep_iterable(validators.min_len(1)))
    """Other values or fields of the same samples, each in a row above, such as `[image]`."""
    dataset: str | None = None
    """The dataset whose first samples are drawn."""
    count: int = field(default=16, validator=validators.ge(1))
    """How many samples of the dataset."""
    prompts: list[str] = field(factory=list, validator=validators.deep_iterable(validators.min_len(1)))
    """Captions to draw pictures for, where there is no dataset."""
    steps: list[str] = field(factory=list, validator=validators.deep_iterable(validators.min_len(1)))
    """The steps that are drawn; none: all."""
    every: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Drawn after each n-th epoch as well; None: at the end of a step only."""
    columns: int = field(default=8, validator=validators.ge(1))
    """Samples in a row."""
    labels: bool = True
    """Whether the captions stand under the pictures."""
    name: str | None = field(
        default=None, validator=validators.optional(validators.matches_re(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*"))
    )
    """Used in the files' names instead of the value's name."""

    _drawn: _Drawn = field(init=False, factory=_Drawn, repr=False)

    def __attrs_post_init__(self) -> None:
        """Refuse options that leave open, or state twice, what is drawn."""
        if (self.dataset is None) == (not self.prompts):
            raise ValueError("give either a `dataset` or `prompts`, from which the pictures are drawn")

    def draws(self) -> list[Draw]:
        """What a run will be asked for, so that the recipe is checked for it."""
        fields = () if self.dataset is not None else ("caption",)
        return [Draw(values=(self.value, *self.beside), dataset=self.dataset, fields=fields, steps=tuple(self.steps))]

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw, where it is time to."""
        if self._takes_part(step) and self.every is not None and position.epoch % self.every == 0:
            self._draw(run, step, position)

    @hookimpl
    def step_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw what the step has reached."""
        if self._takes_part(step):
            self._draw(run, step, position)

    def _takes_part(self, step: StepView) -> bool:
        return not self.steps or step.name in self.steps

    def _draw(self, run: RunView, step: StepView, position: Position) -> None:
        drawn, place = self._drawn, (step.name, position.run_batch)
        if drawn.place != place:
            drawn.place, drawn.content = place, self._sheet(run)
        name = self.name or self.value
        sample = f"{step.name}_{step.index + 1:03d}_{position.epoch:03d}_{self._hash()}-{name}.png"
        write_whole(run.folder / "samples" / sample, drawn.content)
        write_whole(self._latest(run.folder, f"{step.name}-{name}"), drawn.content)

    def _sheet(self, run: RunView) -> bytes:
        from .grid import Cell, grid, png

        batch = {"caption": list(self.prompts)} if self.dataset is None else run.peek(self.dataset, self.count)
        shown = [*self.beside, self.value]
        wanted = [name for name in shown if name not in batch]
        values: Mapping[str, Any] = {**batch, **(run.draw(wanted, batch) if wanted else {})}
        rows = [pixels_of(name, values[name]) for name in shown]
        captions = batch.get("caption") if self.labels else None
        cells = [
            Cell(pictures, captions[index] if captions else "")
            for index, pictures in enumerate(zip(*rows, strict=True))
        ]
        return png(grid(cells, self.columns), {DRAWN_BY: self._hash()})

    def _hash(self) -> str:
        """Six digits that stand for all options."""
        options = (self.value, self.beside, self.dataset, self.count, self.prompts, self.columns, self.labels)
        return blake2b(repr(options).encode(), digest_size=3).hexdigest()

    def _latest(self, folder: Path, name: str) -> Path:
        """The file of a step's latest picture; another observer's picture of that name is left alone."""
        path = folder / f"{name}.png"
        return path if _is_free(path, self._hash()) else folder / f"{name}-{self._hash()}.png"


def pixels_of(name: str, value: Any, observer: str = "pictures") -> list[Pixels]:
    """Pictures [B, 3 or 1, H, W] in [-1, 1] as bytes [H, W, 3] each; NaN is black."""
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim != 4 or value.shape[1] not in (1, 3):
        found = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        message = f"observer `{observer}` cannot show `{name}`: pictures are [B, 3 or 1, H, W], this is {found}"
        raise FluxflowError(message)
    shades = value.detach().float().nan_to_num(nan=-1.0).clamp(-1, 1)
    eight = ((shades + 1) * 127.5).round().to("cpu", torch.uint8)
    return list(eight.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy())


def _is_free(path: Path, drawn_by: str) -> bool:
    """Whether a file is not there, or is an earlier picture of the same observer: its note is in the first bytes."""
    try:
        with path.open("rb") as stream:
            return f"{DRAWN_BY}\0{drawn_by}".encode() in stream.read(256)
    except FileNotFoundError:
        return True
