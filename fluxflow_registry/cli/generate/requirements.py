"""Whether a run can draw pictures from text at all."""

from __future__ import annotations

from fluxflow_registry.check.checker import CheckedStep, RecipePlan, world_of
from fluxflow_registry.errors import Place, Problem, RecipeError
from fluxflow_registry.plan.values import Ask, Missing, Provider, resolve
from fluxflow_registry.registry.signature import Signature

SAMPLER = "a sampler, which `--sampler NAME` gives"


def require_drawable(checked: RecipePlan, step: CheckedStep, value: str, sampler: bool) -> None:
    """Raise RecipeError where `value` cannot be computed from captions; `sampler`: one is stated elsewhere.

    That is no mistake in the recipe, which was trained as it is: one problem says what it lacks.
    """
    world = world_of(
        {"caption"}, checked.models, step.providers, sampler or checked.sampler is not None, True, "the batch"
    )
    asks = [
        Ask("the run", Provider(value, Signature((value,), frozenset(), Place(""), "")), Place(checked.recipe.path))
    ]
    problems = resolve(world, asks)[1]
    if problems:
        lacking = list(dict.fromkeys(_lacking(problem) for problem in problems))
        message = "nothing can be drawn from text in this run: it lacks what makes pictures of captions"
        notes = [
            ("it lacks", "\n".join(lacking)),
            ("it has", f"models {', '.join(checked.models) or 'none'}; steps {_names(checked)}"),
        ]
        if lacking != [SAMPLER]:
            notes.append(("who can", "a run whose recipe has all of it, as recipes/vae_gan_flow.yaml has"))
        raise RecipeError(Problem(message, checked.recipe.path, tuple(notes)))


def _lacking(problem: Problem) -> str:
    """What is missing, in a word."""
    if not isinstance(problem, Missing):
        return problem.message
    if problem.name == "sampler":
        return SAMPLER
    return f"the model `{problem.name}`" if problem.model else f"`{problem.name}`"


def _names(checked: RecipePlan) -> str:
    return ", ".join(step.name for step in checked.steps)
