"""The command `fluxflow-generate`: pictures from a run, for prompts and seeds."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from fluxflow_registry import __version__
from fluxflow_registry.check.checker import check
from fluxflow_registry.cli.generate.prompts import Prompt, read_prompts
from fluxflow_registry.cli.generate.requirements import require_drawable
from fluxflow_registry.cli.generate.weights_source import Place, place_of
from fluxflow_registry.cli.output import emit, emit_json, finish, load_plugins, parse, say
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.cli.recheck import check_again
from fluxflow_registry.contracts import SamplerExtras
from fluxflow_registry.errors import Problem, RecipeError, RunError, choices
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.recipe.overrides import Setting

#: The value that draws pictures from captions.
DRAWN = "generated_image"

EPILOG = """\
Every flag may be spelt with - or with _. With --model-checkpoint or --text-prompts-path there is no guidance unless
--use-cfg is given, as in FluxFlow; otherwise it is that of the recipe. Files of a prompt from a file begin with the
file's name. The architecture is read from the run.
"""

#: Pixels of a side; far beyond what any model draws, and short of what any memory holds.
LARGEST = 8192


def parser() -> Parser:
    """The command line of `fluxflow-generate`."""
    made = Parser(
        prog="fluxflow-generate",
        description="Draw pictures from a run. The same prompt, seed and options give the same picture.",
        epilog=EPILOG,
    )
    made.add_argument("run", nargs="?", metavar="RUN", help="a run's folder, such as runs/vae_gan_flow-20261121-120000")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="what to draw; may be repeated")
    made.add_argument("--prompts", metavar="FILE", help="a text file with one prompt a line")
    made.add_argument("--guidance", type=float, metavar="W", help="v_u + W (v_c - v_u); 1 is none (the recipe's)")
    made.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from (the empty text)")
    made.add_argument("--sampler", metavar="NAME", help="euler, heun, ddim, dpmpp_2m ... (the recipe's)")
    made.add_argument("--steps", type=int, metavar="N", help="steps of the sampler (the recipe's)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="the noise to begin with (0)")
    made.add_argument("--count", type=int, default=1, metavar="N", help="pictures of each prompt, seeds N, N+1 ... (1)")
    made.add_argument("--image-size", "--img-size", metavar="S|WxH", help="size in pixels (the recipe's)")
    made.add_argument("--step", metavar="NAME", help="the step whose end is used, in a recipe with branches")
    made.add_argument("--output", "--output-path", metavar="DIR", help="folder of the pictures (RUN/generated)")
    made.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plugin from a file")
    made.add_argument("--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps ... (the best there is)")
    made.add_argument("--json", action="store_true", help="print the list of pictures as JSON")
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    old = made.add_argument_group("as FluxFlow spelt it")
    old.add_argument("--model-checkpoint", metavar="PATH", help="a run's folder, a checkpoint in it, or its final/")
    old.add_argument("--text-prompts-path", metavar="PATH", help="a folder of .txt files, each a prompt; or one file")
    old.add_argument("--use-cfg", action="store_true", help="draw with guidance")
    old.add_argument("--guidance-scale", type=float, metavar="W", help="as --guidance, in effect with --use-cfg")
    old.add_argument("--batch-size", type=int, metavar="N", help="changes nothing: pictures are drawn one by one")
    return made


def main(arguments: argparse.Namespace) -> int:
    """Draw what the arguments say; gives the exit code."""
    place = place_of(arguments)
    prompts = read_prompts(arguments)
    if arguments.count < 1:
        raise RecipeError(Problem("at least one picture is drawn of each prompt", "--count"))
    settle_guidance(arguments)
    if arguments.batch_size is not None:
        if arguments.batch_size < 1:
            raise RecipeError(Problem("a batch holds at least one picture", "--batch-size"))
        say("note: pictures are drawn one by one, so that none depends on another; --batch-size changes nothing")
    registry = load_plugins(arguments.plugin)
    plain = check_again(place.run / "recipe.yaml", registry, arguments.command)
    leaf = leaf_of(plain, arguments.step or place.step)
    require_drawable(plain, leaf, DRAWN, sampler=arguments.sampler is not None)
    checked = check(place.run / "recipe.yaml", registry, settings_of(arguments, plain, leaf))
    pictures = draw(checked, checked.step(leaf.name), place, prompts, arguments)
    if arguments.json:
        emit_json(pictures)
    else:
        emit("\n".join(picture["file"] for picture in pictures))
    return 0


def settle_guidance(arguments: argparse.Namespace) -> None:
    """Set `guidance` from FluxFlow's flags: with a checkpoint or prompts as there, it is 1 without --use-cfg."""
    old = arguments.model_checkpoint is not None or arguments.text_prompts_path is not None
    scale = arguments.guidance_scale
    if arguments.guidance is not None:
        if scale is not None:
            raise RecipeError(Problem("the guidance is stated by --guidance already", "--guidance-scale"))
        return
    if arguments.use_cfg or not old:
        arguments.guidance = scale
        return
    if scale is not None:
        say("note: --guidance-scale is in effect with --use-cfg; without it pictures are drawn without guidance")
    arguments.guidance = 1.0


def leaf_of(checked: RecipePlan, name: str | None) -> StepPlan:
    """The step whose models draw: the recipe's last, or the branch that is named."""
    leaves = checked.leaves
    if name is None:
        if len(leaves) > 1:
            known = ", ".join(step.name for step in leaves)
            raise RecipeError(Problem("the recipe has several last steps; say which", "--step", (("steps", known),)))
        return leaves[0]
    for step in checked.steps:
        if step.name == name:
            return step
    names = [step.name for step in checked.steps]
    raise RecipeError(Problem(f"`{name}` is no step of the run", "--step", choices(name, names, "steps")))


def settings_of(arguments: argparse.Namespace, checked: RecipePlan, leaf: StepPlan) -> list[Setting]:
    """The flags as settings of the run's own recipe, so that they meet the same checks."""
    drawing = f"steps.{leaf.name}.values.{DRAWN}"
    flags: list[tuple[str, str, Any]] = [
        ("--guidance", f"{drawing}.guidance", arguments.guidance),
        ("--negative-prompt", f"{drawing}.negative_prompt", arguments.negative_prompt),
        ("--sampler", "sampler", arguments.sampler and {"type": arguments.sampler}),
        ("--steps", "sampler.steps", arguments.steps),
    ]
    if arguments.sampler and arguments.steps is None and checked.sampler:
        # Another method keeps the number of steps, where both have one.
        flags.append(("--sampler", "sampler.steps", SamplerExtras.of(checked.sampler.instance).steps))
    return [
        Setting(f"{path}={json.dumps(value)}", f"{flag} {getattr(arguments, flag[2:].replace('-', '_'))}")
        for flag, path, value in flags
        if value is not None
    ]


def size_of(stated: str | None, step: StepPlan, run: Path) -> tuple[int, int]:
    """(height, width) of the pictures: as stated (`S` or `WxH`), or as trained."""
    if stated is not None:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", stated)
        if not match:
            raise RecipeError(Problem(f"`{stated}` is no size: 64, or 96x64 for width x height", "--image-size"))
        width, height = int(match[1]), int(match[2] or match[1])
        if max(width, height) > LARGEST:
            raise RecipeError(Problem(f"a side has at most {LARGEST:,} pixels, not `{stated}`", "--image-size"))
        return height, width
    image = step.fields.get("image")
    if image is None or not image.shape:
        raise RecipeError(Problem("the run's dataset has no images, so a size is needed", "--image-size"))
    return image.shape[-2], image.shape[-1]


def draw(
    checked: RecipePlan, step: StepPlan, place: Place, prompts: Sequence[Prompt], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Draw each prompt with each seed and write the pictures; gives their files and what made them."""
    import torch

    from fluxflow_registry.cli.train.command import device_of
    from fluxflow_registry.engine.images.png import save_png
    from fluxflow_registry.engine.models.trained_weights import load_trained_models
    from fluxflow_registry.engine.run.sampling import Sampling

    device = device_of(arguments.device)
    size = size_of(arguments.image_size, step, place.run)
    models, source, note = load_trained_models(
        checked, place.run, device, arguments.step or place.step, place.folder, finished=place.kind == "final"
    )
    if note:
        say(note)
    for model in sorted(untrained(checked, step)):
        say(f"note: no step up to `{step.name}` trains `{model}`; it draws with the numbers it began with")
    folder = Path(arguments.output) if arguments.output else place.run / "generated"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(Problem(f"the output folder cannot be written: {error.strerror}", str(folder))) from None
    pictures = []
    for prompt in prompts:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            # One at a time: a picture does not depend on what else is drawn with it.
            batch = {"caption": [prompt.text]}
            try:
                image = Sampling(checked, step, models, device, checked.solver, seed).compute([DRAWN], batch, size)[
                    DRAWN
                ][0]
            except torch.OutOfMemoryError:
                message = f"not enough memory to draw {size[1]} x {size[0]} pixels"
                raise RunError(Problem(message, "--image-size")) from None
            made = {"prompt": prompt.text, "seed": seed, "size": list(size), **drawing_options(checked, step)}
            made["weights"] = source
            file = folder / f"{prompt.name}-seed{seed}-{fingerprint(made)}.png"
            save_png(image, file, {key: str(value) for key, value in made.items()})
            pictures.append({"file": str(file), **made})
    return pictures


def untrained(checked: RecipePlan, step: StepPlan) -> set[str]:
    """The models that draw although no step up to this one has trained them, nor anybody before.

    A builder that asks for weights has them from elsewhere.
    """
    trained: set[str] = set()
    place: StepPlan | None = step
    while place is not None:
        trained |= place.trains
        place = checked.step(place.parent) if place.parent else None
    drawn = step.providers.get(DRAWN)
    own = {name for name, model in checked.models.items() if "weights" not in model.component.signature.needs}
    return set(drawn.needs.values()) & own - trained if drawn else set()


def drawing_options(checked: RecipePlan, step: StepPlan) -> dict[str, Any]:
    """What beside prompt and seed makes a picture what it is."""
    from cattrs import unstructure

    sampler = checked.sampler
    options = unstructure(step.providers[DRAWN].instance)
    told = {"sampler": sampler.component.name, **unstructure(sampler.instance)} if sampler else {}
    return {**options, **told}


def fingerprint(made: dict[str, Any]) -> str:
    """Six letters that tell pictures of one prompt and seed apart by their other options."""
    return sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:6]


def hyphened(argv: Sequence[str]) -> list[str]:
    """The command line with each `--flag_name` as `--flag-name`; what follows a `=`, or `--`, is left alone."""
    flags = list(argv[: argv.index("--")] if "--" in argv else argv)
    rest = list(argv[len(flags) :])
    return [_hyphened(each) if each.startswith("--") else each for each in flags] + rest


def _hyphened(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return name.replace("_", "-") + equals + value


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-generate`."""
    arguments = parse(parser(), hyphened(sys.argv[1:] if argv is None else argv))
    finish(lambda: main(arguments), arguments.json)
