"""Observer `pictures`: what the models generate, as contact sheets."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen, validators

from fluxflow_registry import Draw, Position, contact_sheet, hookimpl, read_file, to_pixels, write_file

from .formatting import NAME
from .images import image_batch

if TYPE_CHECKING:
    from fluxflow_registry import RunView, StepView

#: Key of the text in a PNG that identifies the observer that wrote it.
WRITTEN_BY = "fluxflow"


@define
class _LastSheet:
    """The latest sheet, so that the end of a step does not compute its last epoch again."""

    place: tuple[str, int] | None = None
    content: bytes = b""


# More than a dozen members: one attribute for each option.
@frozen(eq=False)
class Pictures:
    """Shows a value for the first samples of a dataset, or for given prompts, on contact sheets (PNG).

    `samples/<step>_<step no>_<epoch>_<hash>-<value>.png` at the end of each step and every few epochs,
    and the latest of each step as `<step>-<value>.png` in the run's folder. The hash identifies the
    options, so that two observers never write to one file. Images below 96 pixels are enlarged by
    an integer factor.
    """

    value: str = field(validator=validators.min_len(1))
    """The value to show, such as `reconstruction` or `generated_image`: [B, 3 or 1, H, W] in [-1, 1]."""
    beside: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """Other values or fields of the same samples, each in a row above, such as `[image]`."""
    dataset: str | None = None
    """The dataset whose first samples are shown."""
    count: int = field(default=16, validator=validators.ge(1))
    """Number of samples of the dataset."""
    prompts: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """Captions to generate images for, instead of a dataset."""
    steps: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """The steps in which sheets are written; empty: all."""
    every: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Write a sheet after each n-th epoch as well; null: only at the end of a step."""
    columns: int = field(default=8, validator=validators.ge(1))
    """Samples in a row."""
    labels: bool = True
    """Whether captions are written under the images."""
    name: str | None = field(
        default=None, validator=validators.optional(validators.matches_re(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*"))
    )
    """Used in file names instead of the value's name."""

    _last: _LastSheet = field(init=False, factory=_LastSheet, repr=False)

    def __attrs_post_init__(self) -> None:
        """Require exactly one source of samples."""
        if (self.dataset is None) == (not self.prompts):
            raise ValueError("exactly one of `dataset` and `prompts` is required: the samples to show")

    def draws(self) -> list[Draw]:
        """What the run is requested to compute, for the check of the recipe."""
        fields = () if self.dataset is not None else ("caption",)
        return [Draw(values=(self.value, *self.beside), dataset=self.dataset, fields=fields, steps=tuple(self.steps))]

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Write a sheet if it is due."""
        if self._takes_part(step) and self.every is not None and position.epoch % self.every == 0:
            self._write(run, step, position)

    @hookimpl
    def step_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Write what the step has reached."""
        if self._takes_part(step):
            self._write(run, step, position)

    def _takes_part(self, step: StepView) -> bool:
        return not self.steps or step.name in self.steps

    def _write(self, run: RunView, step: StepView, position: Position) -> None:
        last, place = self._last, (step.name, position.run_batch)
        if last.place != place:
            last.place, last.content = place, self._sheet(run)
        name = self.name or self.value
        sample = f"{step.name}_{step.index + 1:03d}_{position.epoch:03d}_{self._hash()}-{name}.png"
        write_file(run.folder / "samples" / sample, last.content, parents=False)
        write_file(self._latest(run.folder, f"{step.name}-{name}"), last.content)

    def _sheet(self, run: RunView) -> bytes:
        batch = {"caption": list(self.prompts)} if self.dataset is None else run.peek(self.dataset, self.count)
        shown = [*self.beside, self.value]
        wanted = [name for name in shown if name not in batch]
        values: Mapping[str, Any] = {**batch, **(run.draw(wanted, batch) if wanted else {})}
        pixels = [to_pixels(image_batch(name, values[name], "pictures")) for name in shown]
        cells = list(zip(*pixels, strict=True))
        captions = batch.get("caption", ()) if self.labels else ()
        return self._png(contact_sheet(cells, captions or [""] * len(cells), self.columns))

    def _png(self, sheet: Any) -> bytes:
        from PIL.PngImagePlugin import PngInfo

        info, stream = PngInfo(), BytesIO()
        info.add_text(WRITTEN_BY, self._hash())
        sheet.save(stream, "PNG", pnginfo=info)
        return stream.getvalue()

    def _hash(self) -> str:
        """Six digits that identify the options."""
        options = (self.value, self.beside, self.dataset, self.count, self.prompts, self.columns, self.labels)
        return blake2b(repr(options).encode(), digest_size=3).hexdigest()

    def _latest(self, folder: Path, name: str) -> Path:
        """The file of a step's latest sheet; a file of that name that somebody else wrote is left alone."""
        path = folder / f"{name}.png"
        with suppress(FileNotFoundError):
            if f"{WRITTEN_BY}\0{self._hash()}".encode() not in _start_of(path):
                return folder / f"{name}-{self._hash()}.png"
        return path


def _start_of(path: Path) -> bytes:
    """The first bytes of a file; empty for what cannot be read. Raises FileNotFoundError."""
    try:
        return read_file(path, most=256)
    except FileNotFoundError:
        raise
    except OSError:
        return b""
