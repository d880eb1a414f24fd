"""Observer `samples`: images of a dataset, of files and for prompts, one by one, under FluxFlow's file names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, fields, frozen, validators

from fluxflow_registry import DataError, Draw, FluxflowError, Position, hookimpl, open_regular, to_pixels, write_file

from .formatting import NAME
from .images import context_images, image_batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fluxflow_registry import RunView, StepView

#: A size as a recipe specifies it: a side, or width and height.
Size = int | tuple[int, int]

#: For each option that names a value: how the names of its files end.
ENDINGS: Mapping[str, str] = {
    "reconstruction": "_ns_o",
    "reconstruction_mean": "-nr_o",
    "context": "-ctx",
    "without_context": "-nc",
    "prior": "-prior",
    "generated": "-generated",
}

#: Those of them whose images are generated from captions; the images of all others are reconstructed.
GENERATED = ("generated",)
RECONSTRUCTED = tuple(option for option in ENDINGS if option not in GENERATED)

#: How the file names of an input image end: once for each image, and once beside `_ns_o`.
INPUT, INPUT_OF_SAMPLED = "-original", "_ns_i"

_SIDE = validators.and_(validators.instance_of(int), validators.ge(1))
_SIZE = validators.or_(_SIDE, validators.deep_iterable(_SIDE, validators.instance_of(tuple)))
_VALUE: Any = validators.optional(NAME)


@frozen(eq=False)
class Inputs:
    """A batch that images are computed from, and a description of each of its samples.

    The descriptions are in the EXIF data of the files, and their hash is in the files' names.
    """

    descriptions: Sequence[str]
    batch: dict[str, Any]
    #: Samples of a dataset that are computed together, on which their images may depend; 0 for all else.
    count: int = 0
    #: The options that name what is computed from it.
    options: Sequence[str] = RECONSTRUCTED


def sides(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def file_inputs(files: Sequence[str], sizes: Sequence[Size]) -> Iterator[Inputs]:
    """All files at one size, then at the next."""
    import torch

    for width, height in map(sides, sizes if files else ()):
        descriptions = [f"file {file} at {width}x{height}" for file in files]
        yield Inputs(descriptions, {"image": torch.stack([read_image(file, width, height) for file in files])})


def prompt_inputs(prompts: Sequence[str], sizes: Sequence[Size]) -> Iterator[Inputs]:
    """Each prompt at each size, one by one; at the size of the step's images if no size is listed."""
    for prompt in prompts:
        for width, height in map(sides, sizes):
            batch = {"caption": [prompt], "image_size": (height, width)}
            yield Inputs([f"prompt {prompt!r} at {width}x{height}"], batch, options=GENERATED)
        if not sizes:
            yield Inputs([f"prompt {prompt!r}"], {"caption": [prompt]}, options=GENERATED)


def read_image(file: str, width: int, height: int) -> Tensor:
    """An image file as [3, height, width] in [-1, 1], scaled to cover that size and center-cropped to it.

    Raises DataError if it cannot be read.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with open_regular(Path(file).expanduser()) as stream, Image.open(stream) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"observer `samples` cannot read image `{file}`"
        raise DataError(message, file, [("cause", str(error))], code="unreadable-file", subject=file) from None
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted, dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


# More than a dozen members: one attribute for each option.
@frozen(eq=False)
class Samples:
    """Reconstructs images of a dataset and of files, generates images for prompts, and writes each as a WebP file.

    `samples/<step>_<step no>_<epoch>_<hash>-<suffix>.webp` at the end of epochs, and with the batch as
    `<step>_<step no>_<epoch>_<batch>_<hash>-<suffix>.webp` within them: numbers from 1 with 3, 3 and 5
    digits. The hash identifies the input (a sample, a file at a size, a prompt at a size), which the
    EXIF description of the file names. So every image has a file name of its own. The suffixes are

    `-original`, `_ns_i`: the input image; `-nr_o`: its reconstruction without random sampling; `_ns_o`: with
    sampling; `-ctx`: the spatial context, its first three principal directions as red, green and blue;
    `-nc`: decoded without the context; `-prior`: decoded from noise; `-generated`: generated for a prompt.

    A value is left out if the recipe lacks the models for it. In a step it is computed if the step trains
    a model that it depends on, and if it depends on no model that only a later step starts to train. Within
    an epoch images are computed after a batch in which weights are updated.
    """

    # So many options because each suffix is a value that the recipe may name.
    dataset: str | None = None
    """The dataset whose first samples are reconstructed."""
    count: int = field(default=4, validator=validators.ge(1))
    """Number of samples of the dataset; they are computed in one batch."""
    images: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """Image files that are reconstructed at each of the sizes, center-cropped to it."""
    prompts: list[str] = field(
        factory=list,
        validator=validators.deep_iterable(NAME),
        metadata={"example": ["a small red circle on a white background"]},
    )
    """Captions for which images are generated at each of the sizes, all from the same noise."""
    sizes: list[int | tuple[int, int]] = field(factory=list, validator=validators.deep_iterable(_SIZE))
    """Sizes for `images` and `prompts` in pixels: a side, or [width, height]; empty: the size of the step's images."""
    every: int = field(default=1, validator=validators.ge(1))
    """Write samples after each n-th epoch; they are always written at the end of a step."""
    every_batches: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Write samples within an epoch too, after each n-th batch of it; null: not within an epoch."""
    steps: list[str] = field(factory=list, validator=validators.deep_iterable(NAME))
    """The steps in which samples are written; empty: all."""
    quality: int | None = field(default=None, validator=validators.optional([validators.ge(1), validators.le(100)]))
    """Quality of the files from 1 to 100; null: lossless."""
    reconstruction: str | None = field(default="reconstruction", validator=_VALUE)
    """The value that is written as `_ns_o`; null: no such file."""
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
        """Require at least one source of inputs, and a size for image files."""
        if self.dataset is None and not self.images and not self.prompts:
            raise ValueError("at least one of `dataset`, `images` and `prompts` is required: the inputs of the samples")
        if self.images and not self.sizes:
            raise ValueError("`images` requires `sizes`: the sizes to which the images are cropped")

    def draws(self) -> list[Draw]:
        """What the run is requested to compute; a value that the recipe names is required, the others are optional."""
        found = [self._request(RECONSTRUCTED, dataset=self.dataset)] if self.dataset is not None else []
        found += [self._request(RECONSTRUCTED, fields=("image",))] if self.images else []
        return found + ([self._request(GENERATED, fields=("caption",))] if self.prompts else [])

    @hookimpl
    def run_started(self, run: RunView, position: Position) -> None:
        """Read each image file once; warn if the recipe lacks the models for every value."""
        for file in self.images:
            read_image(file, *sides(self.sizes[0]))
        values = self._values(RECONSTRUCTED) if self.dataset or self.images else {}
        values |= self._values(GENERATED) if self.prompts else {}
        if all(run.upstream(value, {"image", "caption"}) is None for value in values.values()):
            run.warn(position, "observer `samples` writes nothing: the recipe has no models for any of its values")
        if position == Position():
            self._rehearse(run)

    def _rehearse(self, run: RunView) -> None:
        """Compute samples at each size before training: a size that does not fit is reported now, not hours later."""
        for inputs in (*file_inputs(self.images, self.sizes), *prompt_inputs(self.prompts[:1], self.sizes)):
            values = self._values(inputs.options).values()
            try:
                run.draw([value for value in values if run.upstream(value, inputs.batch)], inputs.batch)
            except FluxflowError as error:
                problem = error.problems[0]
                message = f"observer `samples` cannot compute {inputs.descriptions[0]}: {problem.message}"
                raise FluxflowError(evolve(problem, message=message)) from error

    @hookimpl
    def epoch_started(self, run: RunView, step: StepView, position: Position) -> None:
        """Write what an interruption cut short: the run resumes from the same weights."""
        if position.batch and self._is_due(step, position):
            self._write(run, step, position)

    @hookimpl
    def batch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Write samples within an epoch if they are due."""
        if self.every_batches is not None and self._is_due(step, position):
            self._write(run, step, position)

    @hookimpl
    def epoch_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Write what an epoch has reached."""
        if position.epoch % self.every == 0 and self._takes_part(step):
            self._write(run, step, position)

    @hookimpl
    def step_ended(self, run: RunView, step: StepView, position: Position) -> None:
        """Write what the step has reached, unless its last epoch wrote it."""
        if position.epoch % self.every and self._takes_part(step):
            self._write(run, step, position)

    def _is_due(self, step: StepView, position: Position) -> bool:
        """Whether a batch is the n-th, or ends the window of accumulated gradients that contains the n-th."""
        if self.every_batches is None or not self._takes_part(step):
            return False
        last, passed = position.batch == step.batches, (position.batch - 1) % step.accumulate + 1
        if not last and passed < step.accumulate:
            return False
        return position.batch // self.every_batches > (position.batch - passed) // self.every_batches

    def _takes_part(self, step: StepView) -> bool:
        return not self.steps or step.name in self.steps

    def _values(self, options: Iterable[str]) -> dict[str, str]:
        """For each of the options that is not null, the value that it names."""
        return {option: getattr(self, option) for option in options if getattr(self, option) is not None}

    def _request(self, options: Sequence[str], **source: Any) -> Draw:
        defaults = {attribute.name: attribute.default for attribute in fields(Samples)}
        values = self._values(options)
        required = tuple(value for option, value in values.items() if value != defaults[option])
        optional = tuple(value for value in values.values() if value not in required)
        return Draw(values=required, optional=optional, steps=tuple(self.steps), **source)

    def _inputs(self, run: RunView) -> Iterator[Inputs]:
        if self.dataset is not None:
            batch = run.peek(self.dataset, self.count)
            length = min((len(field) for field in batch.values()), default=0)
            yield Inputs([f"sample {index} of {self.dataset}" for index in range(length)], batch, self.count)
        yield from file_inputs(self.images, self.sizes)
        yield from prompt_inputs(self.prompts, self.sizes)

    def _write(self, run: RunView, step: StepView, position: Position) -> None:
        """Compute everything that this step changes, and write it."""
        epoch = f"{position.epoch:03d}" if position.batch == 0 else f"{position.epoch + 1:03d}_{position.batch:05d}"
        place = f"{step.name}_{step.index + 1:03d}_{epoch}"
        for inputs in self._inputs(run):
            values = self._values(inputs.options)
            due = {option: value for option, value in values.items() if _changes(run, step, value, inputs.batch)}
            if not due:
                continue
            computed = run.draw(list(dict.fromkeys(due.values())), inputs.batch)
            for ending, images in self._images(due, computed, inputs.batch):
                for description, pixels in zip(inputs.descriptions, images, strict=True):
                    file = f"{place}_{self._hash(description, inputs.count)}{ending}.webp"
                    content = self._webp(pixels, description)
                    write_file(run.folder / "samples" / file, content, parents=False)

    def _images(
        self, due: Mapping[str, str], computed: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """For each ending of file names: the pixels of all samples."""
        originals = to_pixels(image_batch("image", batch["image"], "samples")) if "image" in batch else None
        if originals is not None:
            yield INPUT, originals
        for option, name in due.items():
            value = computed[name]
            if option == "context":
                value = context_images(value, *batch["image"].shape[-2:])
            if option == "reconstruction" and originals is not None:
                yield INPUT_OF_SAMPLED, originals
            yield ENDINGS[option], to_pixels(image_batch(name, value, "samples"))

    def _webp(self, pixels: NDArray[np.uint8], description: str) -> bytes:
        """The file, with its description as EXIF tag 270."""
        from PIL import Image

        stream, notes = BytesIO(), Image.Exif()
        notes[270] = description.encode()
        quality, lossless = (100, True) if self.quality is None else (self.quality, False)
        Image.fromarray(pixels).save(stream, "WEBP", lossless=lossless, quality=quality, exif=notes)
        return stream.getvalue()

    def _hash(self, description: str, count: int) -> str:
        """Six digits that identify an input, and the options that change its images."""
        options = (description, count, *self._values(ENDINGS).items(), self.quality)
        return blake2b(repr(options).encode(), digest_size=3).hexdigest()


def _changes(run: RunView, step: StepView, value: str, batch: Mapping[str, Any]) -> bool:
    """Whether a value can be computed, changes in this step, and depends on nothing that only later steps train."""
    models = run.upstream(value, batch)
    if models is None or not models & step.trains:
        return False
    until_now = frozenset[str]().union(*(other.trains for other in run.steps[: step.index + 1]))
    later = frozenset[str]().union(*(other.trains for other in run.steps[step.index + 1 :]))
    return not models & (later - until_now)
