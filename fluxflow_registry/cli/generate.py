"""The command `fluxflow-generate`: images from a run, for prompts and seeds."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import unicodedata
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import frozen, has

from fluxflow_registry import __version__
from fluxflow_registry.check.checker import check
from fluxflow_registry.check.notes import notes_of
from fluxflow_registry.cli.invocation import interrupt_at_signals
from fluxflow_registry.cli.output import Result, finish, importing, load_plugins, parse, say_note, say_notes
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.cli.plugins_of_run import check_again
from fluxflow_registry.contracts import SamplerExtras
from fluxflow_registry.engine.run.folder import CHECKPOINTS, RECIPE, require_folders
from fluxflow_registry.errors import Choices, DataError, Flag, Place, Problem, RecipeError, RunError
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.values import Request, World, resolve_values
from fluxflow_registry.recipe.overrides import Setting
from fluxflow_registry.recipe.reader import not_utf8
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.registry.signature import is_configurable, keys_of
from fluxflow_registry.state import checkpoints
from fluxflow_registry.state.disk import writing

#: The value that generates images from captions.
GENERATED = "generated_image"

EPILOG = """\
Every flag can be written with - or with _. With --model-checkpoint or --text-prompts-path there is no guidance unless
--use-cfg is set, as in FluxFlow; otherwise the recipe's guidance applies. The name of an image whose prompt comes from
a file begins with the name of that file.
"""

#: Flags of FluxFlow that have no effect here: their types, and why.
WITHOUT_EFFECT = {
    "--workers": (int, "prompts are read by this process"),
    **dict.fromkeys(
        ("--vae-dim", "--feature-maps-dim", "--text-embedding-dim"), (int, "the architecture is read from the run")
    ),
    "--tokenizer-name": (str, "the text encoder of the run has its own tokenizer"),
}

#: Bytes of a file of prompts: a million prompts, and an end to a device that has none.
LONGEST_FILE = 1 << 26

#: Seconds to wait for someone to write to a pipe.
WAIT = 2.0

#: Pixels of a side: far more than any model generates, and less than what fills the memory at once.
LARGEST = 8192


def parser() -> Parser:
    """The command line of `fluxflow-generate`."""
    built = Parser(
        prog="fluxflow-generate",
        description="Generate images from a run. The same prompt, seed and options give the same image.",
        epilog=EPILOG,
    )
    add = built.add_argument
    add("run", nargs="?", metavar="RUN", help="the folder of a run, such as runs/vae_gan_flow-20261121-120000")
    add("--prompt", action="append", default=[], metavar="TEXT", help="what the image shows; may be repeated")
    add("--prompts", metavar="FILE", help="a text file with one prompt per line")
    add(
        "--guidance",
        type=float,
        metavar="W",
        help="strength W of v_u + W (v_c - v_u); 1: no guidance (default: the recipe's)",
    )
    add("--negative-prompt", metavar="TEXT", help="what guidance steers away from (default: the empty prompt)")
    add("--sampler", metavar="NAME", help="euler, heun, ddim, dpmpp_2m ... (default: the recipe's)")
    add("--steps", type=int, metavar="N", help="number of sampler steps (default: the recipe's)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the initial noise (default: 0)")
    add("--count", type=int, default=1, metavar="N", help="images per prompt, with seeds S, S+1 ... (default: 1)")
    add("--image-size", "--img-size", metavar="S|WxH", help="size in pixels (default: the recipe's)")
    add("--step", metavar="NAME", help="in a recipe with branches, the step whose final weights are used")
    add("--output", "--output-path", metavar="DIR", help="folder for the images (default: RUN/generated)")
    add("--plugin", action="append", default=[], metavar="FILE", help="load a plugin from a file")
    add("--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps ... (default: the best available)")
    add("--json", action="store_true", help="print the list of images as JSON")
    add("--version", action="version", version=f"fluxflow-registry {__version__}")
    old = built.add_argument_group("flags of FluxFlow")
    old.add_argument(
        "--model-checkpoint", metavar="PATH", help="the folder of a run, a checkpoint in it, or its final/"
    )
    old.add_argument("--text-prompts-path", metavar="PATH", help="a folder of .txt files, each a prompt; or one file")
    old.add_argument("--use-cfg", action="store_true", help="generate with guidance")
    old.add_argument("--guidance-scale", type=float, metavar="W", help="like --guidance, but only with --use-cfg")
    old.add_argument("--ddim-steps", dest="steps", type=int, metavar="N", help="like --steps")
    old.add_argument("--batch-size", type=int, metavar="N", help="no effect: images are generated one by one")
    for flag, (kind, reason) in WITHOUT_EFFECT.items():
        old.add_argument(flag, type=kind, metavar="X", help=f"no effect: {reason}")
    return built


def main(arguments: Namespace) -> Result:
    """Generate the images that the arguments request."""
    weights = weights_of(arguments)
    prompts = read_prompts(arguments)
    if arguments.count < 1:
        raise RecipeError("`--count` must be at least 1", Flag("--count", str(arguments.count)), code="out-of-range")
    apply_guidance_flags(arguments)
    if arguments.batch_size is not None:
        if arguments.batch_size < 1:
            raise RecipeError("`--batch-size` must be at least 1", Flag("--batch-size"), code="out-of-range")
        say_note("--batch-size has no effect: images are generated one by one, so that none depends on another")
    for flag, (_, reason) in WITHOUT_EFFECT.items():
        if getattr(arguments, flag[2:].replace("-", "_")) is not None:
            say_note(f"{flag} has no effect: {reason}")
    registry = load_plugins(arguments.plugin)
    plain = check_again(weights.run / RECIPE, registry, arguments.command)
    leaf = leaf_of(plain, arguments.step or weights.step)
    require_generation(plain, leaf, sampler=arguments.sampler is not None)
    checked = check(weights.run / RECIPE, registry, settings_of(arguments, plain, leaf, registry))
    say_notes(notes_of(checked, checked.step(leaf.name), GENERATED))
    images = generate(checked, checked.step(leaf.name), weights, prompts, arguments)
    return Result(lambda: images, lambda: "\n".join(image["file"] for image in images))


@frozen
class Weights:
    """A run, and which of its weights: the newest, those of `final/`, or those of a checkpoint."""

    run: Path
    #: Whether they are those of `final/`.
    final: bool = False
    #: The folder of the checkpoint.
    folder: Path | None = None
    #: The step whose weights they are, if the path names it.
    step: str | None = None


def weights_of(arguments: Namespace) -> Weights:
    """The weights that the command line names; raises RunError if there are none, RecipeError if two are named."""
    if arguments.run and arguments.model_checkpoint:
        message = "`RUN` cannot be combined with `--model-checkpoint`"
        raise RecipeError(message, Flag("--model-checkpoint"), code="conflict")
    named = arguments.run or arguments.model_checkpoint
    if not named:
        hint = "name the folder of a run, as in `fluxflow-generate runs/NAME`, or set --model-checkpoint"
        raise RecipeError("a run is required", None, [("hint", hint)], code="missing-argument")
    path = Path(named)
    if (path / RECIPE).is_file():
        return Weights(path)
    run = next((parent for parent in path.absolute().parents if (parent / RECIPE).is_file()), None)
    if run is None and not path.exists():
        raise RunError(f"folder `{path}` does not exist", str(path), code="missing-file")
    if run is None and path.is_file():
        other = ("hint", "name the folder of a run: weights of another program, such as FluxFlow, cannot be used")
        raise RunError(f"`{path.name}` is a file outside of any run", str(path), [other], code="missing-file")
    if run is None:
        runs = tuple(sorted(found.parent.name for found in path.glob(f"*/{RECIPE}")))
        message = "this is not the folder of a run: it has no recipe.yaml"
        raise RunError(message, str(path), code="missing-file", choices=Choices(None, runs) if runs else None)
    run = next((parent for parent in path.parents if parent.absolute() == run), run)
    inner = path.absolute().relative_to(run.absolute()).parts
    saved = {found.folder.name: found.step for found in checkpoints.listing(run / CHECKPOINTS)}
    if not path.exists():
        message = f"the run has no checkpoint `{path.name}`"
        raise RunError(message, str(path), code="missing-file", subject=path.name, choices=saved)
    if inner[0] == "final":
        branch = inner[1] if len(inner) > 1 and not (run / "final" / inner[1] / "config.json").is_file() else None
        return Weights(run, final=True, step=branch)
    if inner[0] == CHECKPOINTS and len(inner) > 1 and inner[1] in saved:
        return Weights(run, folder=run / CHECKPOINTS / inner[1], step=saved[inner[1]])
    hint = "use the folder of the run, a folder in its checkpoints/, or its final/"
    raise RunError("this folder of the run contains no models", str(path), [("hint", hint)], code="missing-weights")


@frozen
class Prompt:
    """A prompt, and how the file names of its images begin."""

    text: str
    name: str


def read_prompts(arguments: Namespace) -> list[Prompt]:
    """The prompts of the command line, of the file and of the folder; raises RecipeError if there are none."""
    texts = list(arguments.prompt)
    if arguments.prompts:
        texts += _filled(_lines(Path(arguments.prompts)), arguments.prompts)
    prompts = [Prompt(text, slug(text)) for text in texts]
    if arguments.text_prompts_path:
        prompts += _named_by_files(Path(arguments.text_prompts_path))
    texts = [("--prompt", prompt.text) for prompt in prompts] + [("--negative-prompt", arguments.negative_prompt or "")]
    for flag, text in texts:
        if not text.isascii() and text.encode(errors="replace").decode() != text:  # lone surrogates
            message = f"the prompt `{text}` contains bytes that are not UTF-8"
            raise RecipeError(message, Flag(flag), code="invalid-value", subject=flag)
    if not prompts:
        hint = 'set --prompt "a small red circle", --prompts FILE or --text-prompts-path DIR'
        raise RecipeError("a prompt is required", None, [("hint", hint)], code="missing-argument")
    return prompts


def _named_by_files(path: Path) -> Iterator[Prompt]:
    """In a folder each `.txt` file is a prompt, named by the file; in a file each line, named by file and line."""
    if not path.is_dir():
        lines = _filled(_lines(path), str(path))
        for number, text in enumerate(lines, 1):
            yield Prompt(text, f"{path.stem}-{number}" if len(lines) > 1 else path.stem)
        return
    with _reading(path):
        files = sorted(each for each in path.iterdir() if each.suffix == ".txt" and each.is_file())
    if not files:
        raise DataError("the prompt folder contains no .txt file", str(path), code="missing-file")
    for file in files:
        yield Prompt(" ".join(_filled(_lines(file), str(file))), file.stem)


def _filled(lines: Iterator[str], path: str) -> list[str]:
    """The lines of a file, of which there must be one."""
    if found := list(lines):
        return found
    raise DataError("the prompt file is empty", path, code="missing-caption")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty; of a pipe, such as `/dev/stdin`, until its end."""
    with _reading(path), open(path, "rb", opener=_open_at_once) as file:
        content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            message = f"the prompt file is too long: at most {LONGEST_FILE:,} bytes are read"
            raise DataError(message, str(path), code="out-of-range")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = None
        if text is None or "\0" in text[:4]:  # UTF-16 of ASCII is also UTF-8
            raise DataError(f"the prompt file is {not_utf8(content)}", str(path), code="unreadable-file")
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, but do not wait forever for someone to write to it: a pipe to which nobody writes is empty."""
    if not hasattr(os, "O_NONBLOCK"):
        return os.open(path, flags)
    handle = os.open(path, flags | os.O_NONBLOCK)
    select.select([handle], [], [], WAIT)
    os.set_blocking(handle, True)
    return handle


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise DataError for what cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read the prompts: {error.strerror}", str(path), code="unreadable-file") from None
    except ValueError:
        message = "cannot read the prompts: no path contains a NUL character"
        raise DataError(message, str(path), code="unreadable-file") from None


def slug(prompt: str) -> str:
    """A prompt as part of a file name: its letters and digits, of every script that file names can have here."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", prompt).lower()).strip("-")
    encoding = sys.getfilesystemencoding()
    name = words.encode(encoding, "ignore")[:60].decode(encoding, "ignore")
    return name or ("prompt" if prompt.strip() else "empty")


SAMPLER = "a sampler (set one with `--sampler NAME`)"


def require_generation(checked: RecipePlan, step: StepPlan, sampler: bool) -> None:
    """Raise RecipeError if no image can be generated from a caption; `sampler`: the command line sets one.

    The recipe is not wrong, since it was trained as it is: one problem lists what it lacks.
    """
    has_sampler = sampler or checked.sampler is not None
    world = World.of(
        {"caption"}, checked.models, step.providers, sampler=has_sampler, image_size=True, dataset="the batch"
    )
    problems = resolve_values(world, [Request.of("the run", [GENERATED], Place(checked.recipe.path))])[1]
    if problems:
        lacking = list(dict.fromkeys(_lacking(problem) for problem in problems))
        models, steps = ", ".join(checked.models) or "none", ", ".join(step.name for step in checked.steps)
        notes = [("cause", f"the run lacks {', '.join(lacking)}"), ("received", f"models {models}; steps {steps}")]
        if lacking != [SAMPLER]:
            notes.append(("hint", "use a run whose recipe has all of these, such as recipes/vae_gan_flow.yaml"))
        message = "this run cannot generate images from text"
        raise RecipeError(message, checked.recipe.path, notes, code="nothing-to-generate")


def _lacking(problem: Problem) -> str:
    """What is missing, in a word."""
    if problem.subject == "sampler":
        return SAMPLER
    return f"the model `{problem.subject}`" if problem.code == "missing-model" else f"`{problem.subject}`"


def apply_guidance_flags(arguments: Namespace) -> None:
    """Set `guidance` from FluxFlow's flags: with a checkpoint or prompts as there, it is 1 without --use-cfg."""
    old = arguments.model_checkpoint is not None or arguments.text_prompts_path is not None
    scale = arguments.guidance_scale
    if arguments.guidance is not None:
        if scale is not None:
            message = "`--guidance` cannot be combined with `--guidance-scale`"
            raise RecipeError(message, Flag("--guidance-scale"), code="conflict")
    elif arguments.use_cfg or not old:
        arguments.guidance = scale
    else:
        if scale is not None:
            say_note("--guidance-scale has no effect without --use-cfg: images are generated without guidance")
        arguments.guidance = 1.0


def leaf_of(checked: RecipePlan, name: str | None) -> StepPlan:
    """The step whose models generate: the recipe's last one, or the branch of that name."""
    leaves, known = checked.leaves, {step.name: step for step in checked.steps}
    if name is None and len(leaves) > 1:
        hint = f"choose one with `--step`: {', '.join(step.name for step in leaves)}"
        raise RecipeError("the recipe has several final steps", Flag("--step"), [("hint", hint)], code="ambiguous")
    if name is not None and name not in known:
        message = f"the run has no step `{name}`"
        raise RecipeError(message, Flag("--step"), code="unknown-name", subject=name, choices=known)
    return leaves[0] if name is None else known[name]


def settings_of(arguments: Namespace, checked: RecipePlan, leaf: StepPlan, registry: Registry) -> list[Setting]:
    """The flags as settings of the run's own recipe, so that they meet the same checks."""
    path = f"steps.{leaf.name}.values.{GENERATED}"
    flags: list[tuple[str, str, Any]] = [
        ("--guidance", f"{path}.guidance", arguments.guidance),
        ("--negative-prompt", f"{path}.negative_prompt", arguments.negative_prompt),
        ("--sampler", "sampler", arguments.sampler and {"type": arguments.sampler}),
        ("--steps", "sampler.steps", arguments.steps),
    ]
    chosen = registry.get("sampler", arguments.sampler) if arguments.sampler else None
    counts = chosen is not None and is_configurable(chosen.factory) and "steps" in keys_of(chosen.factory)
    if counts and arguments.steps is None and checked.sampler:
        # Another method keeps the number of steps, where both have one.
        flags.append(("--sampler", "sampler.steps", SamplerExtras.of(checked.sampler.instance).steps))
    return [
        Setting(f"{path}={json.dumps(value)}", Flag(flag, str(getattr(arguments, flag[2:].replace("-", "_")))))
        for flag, path, value in flags
        if value is not None
    ]


def options_of(instance: object) -> dict[str, Any]:
    """The options of a component; none for a function."""
    from cattrs import unstructure

    return dict(unstructure(instance)) if has(type(instance)) else {}


def size_of(requested: str | None, step: StepPlan) -> tuple[int, int]:
    """(height, width) of the images: as written (`S` or `WxH`), or as trained."""
    if requested is not None:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", requested)
        if not match:
            message = f"`{requested}` is not a size: write 64, or 96x64 for width x height"
            raise RecipeError(message, Flag("--image-size"), code="wrong-type")
        width, height = int(match[1]), int(match[2] or match[1])
        if max(width, height) > LARGEST:
            message = f"`{requested}` is too large: a side has at most {LARGEST:,} pixels"
            raise RecipeError(message, Flag("--image-size"), code="out-of-range")
        return height, width
    image = step.fields.get("image")
    if image is None or not image.shape:
        message = "the size of the images is required, because the dataset of the run has no images"
        raise RecipeError(message, Flag("--image-size"), code="missing-argument")
    return image.shape[-2], image.shape[-1]


def generate(
    checked: RecipePlan, step: StepPlan, weights: Weights, prompts: Sequence[Prompt], arguments: Namespace
) -> list[dict[str, Any]]:
    """Generate an image for each prompt and seed; returns their files and what they depend on."""
    with importing():
        import torch

        from fluxflow_registry.cli.invocation import device_of
        from fluxflow_registry.engine.images import save_png
        from fluxflow_registry.engine.run.evaluation import Sampling
        from fluxflow_registry.engine.run.trained_models import load_trained_models, trained_in

    folder = Path(arguments.output) if arguments.output else weights.run / "generated"
    require_folders([folder])
    device = device_of(arguments.device)
    size = size_of(arguments.image_size, step)
    models, source, note = load_trained_models(
        checked, weights.run, device, arguments.step or weights.step, weights.folder, finished=weights.final
    )
    if note:
        say_note(note)
    never = untrained(checked, step)
    for model in sorted(never):
        say_note(f"model `{model}` is not trained in or before step `{step.name}`: its initial weights are used")
    if source != "final":
        used = set(step.providers[GENERATED].needs.values()) & {name for each in checked.steps for name in each.trains}
        for model in sorted(used - never - trained_in(checked, weights.run / CHECKPOINTS / source)):
            say_note(f"model `{model}` was not trained yet at checkpoint {source}: its initial weights generate noise")
    with writing("create the output folder", str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    options, sampler = options_of(step.providers[GENERATED].instance), checked.sampler
    if sampler:
        options |= {"sampler": sampler.component.name, **options_of(sampler.instance)}
    images = []
    for prompt in prompts:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            # One at a time: an image does not depend on what else is generated with it.
            sampling = Sampling(checked, step, models, device, checked.solver, seed)
            try:
                values = sampling.compute([GENERATED], {"caption": [prompt.text]}, size)
            except torch.OutOfMemoryError:
                message = f"not enough memory to generate {size[1]} x {size[0]} pixels"
                raise RunError(message, Flag("--image-size"), code="out-of-memory") from None
            facts = {"prompt": prompt.text, "seed": seed, "size": list(size), **options, "weights": source}
            # Six letters distinguish images of one prompt and seed by their other options.
            fingerprint = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
            file = folder / f"{prompt.name}-seed{seed}-{fingerprint}.png"
            save_png(values[GENERATED][0], file, {key: str(value) for key, value in facts.items()})
            images.append({"file": str(file), **facts})
    return images


def untrained(checked: RecipePlan, step: StepPlan) -> set[str]:
    """The models that are used although neither this step nor one before it has trained them.

    A model whose builder requests `weights` was trained elsewhere.
    """
    trained: set[str] = set()
    place: StepPlan | None = step
    while place is not None:
        trained |= place.trains
        place = checked.step(place.parent) if place.parent else None
    generated = step.providers.get(GENERATED)
    own = {name for name, model in checked.models.items() if "weights" not in model.component.signature.needs}
    return set(generated.needs.values()) & own - trained if generated else set()


def hyphened(argv: Sequence[str]) -> list[str]:
    """The command line with each `--flag_name` as `--flag-name`; what follows `=` or `--` is unchanged."""
    end = argv.index("--") if "--" in argv else len(argv)
    flags = [re.sub("^--[^=]*", lambda name: name[0].replace("_", "-"), word) for word in argv[:end]]
    return [*flags, *argv[end:]]


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-generate`."""
    arguments = parse(parser(), hyphened(sys.argv[1:] if argv is None else argv))
    interrupt_at_signals()
    finish(lambda: main(arguments), arguments.json)
