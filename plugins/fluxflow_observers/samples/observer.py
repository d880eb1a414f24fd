"""Observer `samples`: pictures one by one, under FluxFlow's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from io import BytesIO
from typing import TYPE_CHECKING, Any

from attrs import field, fields, frozen, validators

from fluxflow_registry import Draw, FluxflowError, Position, Problem, hookimpl

from ..files import write_whole
from ..metric_names import NAME
from ..pictures import pixels_of
from .inputs import Subjects, of_dataset, of_files, of_prompts, read, sides

if TYPE_CHECKING:
    from fluxflow_registry.lifecycle import RunView, StepView

    from ..grid import Pixels

#: For each option that names a value: how the files of that value end.
ENDINGS: Mapping[str, str] = {
    "reconstruction": "_ns_o",
    "reconstruction_mean": "-nr_o",
    "context": "-ctx",
    "without_context": "-nc",
    "prior": "-prior",
    "generated": "-generated",
}

#: How the files of a picture that is put in end; it stands beside what comes out, for each of the two.
INPUT, INPUT_OF_SAMPLED = "-original", "_ns_i"

_SIDE = validators.and_(validators.instance_of(int), validators.ge(1))
_SIZE = validators.or_(_SIDE, validators.deep_iterable(_SIDE, validators.instance_of(tuple)))
_VALUE: Any = validators.optional(NAME)


@frozen(eq=False)
class Samples:
    """Draws samples of a dataset, pictures in files and prompts, each picture into a WebP file of its own.

    `samples/<step>_<step no>_<epoch>_<hash>-<suffix>.webp` at the end of epochs, and with the batch as
    `<step>_<step no>_<epoch>_<batch>_<hash>-<suffix>.webp` within them: numbers from 1 with 3, 3 and 5
    digits. The hash stands for what is drawn: a sample, a file at a size, a prompt at a size, which the
    file says in its EXIF description. So each picture has one name, and no other ever has it. Suffixes are

    `-original`, `_ns_i`: the picture that is put in; `-nr_o`: its reconstruction without random sampling;
    `_ns_o`: with sampling; `-ctx`: the spatial context, its first three principal directions as red, green
    and blue; `-nc`: decoded without the context; `-prior`: decoded from noise; `-generated`: of a prompt.

    A value is left out where the recipe has not the models for it. In a step it is drawn if training in
    that step moves a model that it depends on, and none that only a later step begins to train. Within an
    epoch pictures are drawn after a batch in which weights move.
    """

    dataset: str | None = None
    """The dataset whose first samples are drawn."""
    count: int = field(default=4, validator=validators.ge(1))
    """How many samples of the dataset; they are computed in one batch."""
    images: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """Picture files that are drawn at each of the sizes, cut to them in the middle."""
    prompts: list[str] = field(
        factory=list,
        validator=validators.deep_iterable(NAME),
        metadata={"example": ["a small red circle on a white background"]},
    )
    """Captions for which pictures are drawn at each of the sizes; they begin with the same noise."""
    sizes: list[int | tuple[int, int]] = field(factory=list, validator=validators.deep_iterable(_SIZE))
    """Sizes of `images` and `prompts` in pixels: a side, or [width, height]; none: as the step's pictures."""
    every: int = field(default=1, validator=validators.ge(1))
    """Drawn after each n-th epoch; at the end of a step always."""
    every_batches: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Drawn within an epoch too, after each n-th batch of it; None: not."""
    steps: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """The steps that are drawn; none: all."""
    quality: int | None = field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), validators.le(100)))
    )
    """Quality of the files from 1 to 100; None: nothing is lost."""
    reconstruction: str | None = field(default="reconstruction", validator=_VALUE)
    """The value that is written as `_ns_o`; null: none is."""
    reconstruction_mean: str | None = field(default="reconstruction_mean", validator=_VALUE)
    """The value that is written as `-nr_o`."""
    context: str | None = field(default="context", validator=_VALUE)
    """The value that is written as `-ctx`: [B, C, h, w]."""
    without_context: str | None = field(default="reconstruction_without_context", validator=_VALUE)
    """The value that is written as `-nc`."""
    prior: str | None = field(default="prior_sample", validator=_VALUE)
    """The value that is written as `-prior`."""
    generated: str | None = field(default="generated_image", validator=_VALUE)
    """The value that is written as `-generated`."""

    def __attrs_post_init__(self) -> None:
        """Refuse options that say nothing to draw, or pictures in files without a size."""
        if self.dataset is None and not self.images and not self.prompts:
            raise ValueError("give a `dataset`, `images` or `prompts`, from which samples are drawn")
        if self.images and not self.sizes:
            raise ValueError("`images` need `sizes`, to which they are cut")

    def draws(self) -> list[Draw]:
        """What a run is asked for; a value that the recipe names must be there, the others may be."""
        found = [self._draw(self._of_pictures(), dataset=self.dataset)] if self.dataset is not None else []
        found += [self._draw(self._of_pictures(), fields=("image",))] if self.images else []
        return found + ([self._draw(["generated"], fields=("caption",))] if self.prompts else [])

    @hookimpl
    def run_started(self, run: RunView, position: Position) -> None:
        """Look at each picture file once; say so where the recipe has no model for anything that is listed."""
        for file in self.images:
            read(file, *sides(self.sizes[0]))
        known = {"image", "caption"}
        wished = [
            *(self._of_pictures() if self.dataset or self.images else ()),
            *(["generated"] if self.prompts else []),
        ]
        if all(run.upstream(value, known) is None for value in self._values(wished).values()):
            run.warn(position, "observer `samples` draws nothing: the recipe has the models for none of its values")
        if position == Position():
            self._try(run)

    def _try(self, run: RunView) -> None:
        """Draw at each of the sizes before anything is trained: what cannot be drawn is told now, not hours later."""
        for subjects in (*of_files(self.images, self.sizes), *of_prompts(self.prompts[:1], self.sizes)):
            options = ["generated"] if "caption" in subjects.batch else self._of_pictures()
            values = [value for value in self._values(options).values() if run.upstream(value, subjects.batch)]
            try:
                run.draw(values, subjects.batch)
            except FluxflowError as error:
                message = f"observer `samples` cannot draw {subjects.told[0]}: {error.problems[0].message}"
                raise FluxflowError(Problem(message, error.problems[0].where, error.problems[0].notes)) from error

    @hookimpl
    def epoch_started(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw again what was broken off as the run was stopped: it goes on from the same weights."""
        if position.batch and self._is_due(step, position):
            self._write(run, step, position)

    @hookimpl
    def batch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw within an epoch, where it is time to."""
        if self.every_batches is not None and self._is_due(step, position):
            self._write(run, step, position)

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw what an epoch has reached."""
        if position.epoch % self.every == 0 and self._takes_part(step):
            self._write(run, step, position)

    @hookimpl
    def step_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw what the step has reached, unless its last epoch has been drawn."""
        if position.epoch % self.every and self._takes_part(step):
            self._write(run, step, position)

    def _is_due(self, step: StepView, position: Position) -> bool:
        """Whether a batch is the n-th, or closes the window of averaged gradients in which the n-th lies."""
        if self.every_batches is None or not self._takes_part(step):
            return False
        last, passed = position.batch == step.batches, (position.batch - 1) % step.accumulate + 1
        if not last and passed < step.accumulate:
            return False
        return position.batch // self.every_batches > (position.batch - passed) // self.every_batches

    def _takes_part(self, step: StepView) -> bool:
        return not self.steps or step.name in self.steps

    def _of_pictures(self) -> list[str]:
        """The options that name values which pictures are put into."""
        return [option for option in ENDINGS if option != "generated"]

    def _values(self, options: list[str]) -> dict[str, str]:
        """For each of these options that is not null, the value that it names."""
        return {option: value for option in options if (value := getattr(self, option)) is not None}

    def _draw(self, options: list[str], **place: Any) -> Draw:
        defaults = {attribute.name: attribute.default for attribute in fields(Samples)}
        values = self._values(options)
        stated = tuple(value for option, value in values.items() if value != defaults[option])
        optional = tuple(value for value in values.values() if value not in stated)
        return Draw(values=stated, optional=optional, steps=tuple(self.steps), **place)

    def _subjects(self, run: RunView) -> Iterator[tuple[Subjects, list[str]]]:
        """What is drawn of, and the options that name the values that are drawn of it."""
        if self.dataset is not None:
            for subjects in of_dataset(run, self.dataset, self.count):
                yield subjects, self._of_pictures()
        for subjects in of_files(self.images, self.sizes):
            yield subjects, self._of_pictures()
        for subjects in of_prompts(self.prompts, self.sizes):
            yield subjects, ["generated"]

    def _write(self, run: RunView, step: StepView, position: Position) -> None:
        """Draw everything that this step changes, and write it."""
        epoch = f"{position.epoch:03d}" if position.batch == 0 else f"{position.epoch + 1:03d}_{position.batch:05d}"
        place = f"{step.name}_{step.index + 1:03d}_{epoch}"
        for subjects, options in self._subjects(run):
            values = self._values(options)
            wanted = [option for option, value in values.items() if _is_moved(run, step, value, subjects.batch)]
            if not wanted:
                continue
            drawn = run.draw(list(dict.fromkeys(values[option] for option in wanted)), subjects.batch)
            for ending, pictures in self._pictures(wanted, drawn, subjects.batch):
                for told, picture in zip(subjects.told, pictures, strict=True):
                    file = f"{place}_{self._hash(told)}{ending}.webp"
                    write_whole(run.folder / "samples" / file, self._webp(picture, told))

    def _pictures(
        self, wanted: list[str], drawn: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> Iterator[tuple[str, list[Pixels]]]:
        """For each ending of files: the pictures of all samples."""
        from .spatial_context import context_pictures

        put_in = pixels_of("image", batch["image"], "samples") if "image" in batch else None
        if put_in is not None:
            yield INPUT, put_in
        for option in wanted:
            value = drawn[getattr(self, option)]
            if option == "context":
                height, width = batch["image"].shape[-2:]
                value = context_pictures(value, height, width)
            if option == "reconstruction" and put_in is not None:
                yield INPUT_OF_SAMPLED, put_in
            yield ENDINGS[option], pixels_of(getattr(self, option), value, "samples")

    def _webp(self, picture: Pixels, told: str) -> bytes:
        """The file, with what is drawn as its description (EXIF tag 270)."""
        from PIL import Image

        stream, notes = BytesIO(), Image.Exif()
        notes[270] = told.encode()
        lossless = self.quality is None
        quality = 100 if self.quality is None else self.quality
        Image.fromarray(picture).save(stream, "WEBP", lossless=lossless, quality=quality, exif=notes)
        return stream.getvalue()

    def _hash(self, told: str) -> str:
        """Six digits that stand for what is drawn, and for the options that change how."""
        options = (told, self.count if told.startswith("sample") else 0, *self._values(list(ENDINGS)).items())
        return blake2b(repr((*options, self.quality)).encode(), digest_size=3).hexdigest()


def _is_moved(run: RunView, step: StepView, value: str, batch: Mapping[str, Any]) -> bool:
    """Whether a value can be drawn, is changed by this step, and depends on nothing that is trained only later."""
    models = run.upstream(value, batch)
    if models is None or not models & step.trains:
        return False
    begun = frozenset[str]().union(*(other.trains for other in run.steps[: step.index + 1]))
    later = frozenset[str]().union(*(other.trains for other in run.steps[step.index + 1 :]))
    return not models & (later - begun)
