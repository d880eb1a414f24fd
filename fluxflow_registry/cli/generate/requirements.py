"""Whether a run can generate images from text at all."""

from __future__ import annotations

from fluxflow_registry.errors import Place, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.values import Request, World, resolve_values

SAMPLER = "a sampler, which `--sampler NAME` adds"


def require_generation(checked: RecipePlan, step: StepPlan, value: str, sampler: bool) -> None:
    """Raise RecipeError if `value` cannot be computed from captions; `sampler`: the command line sets one.

    The recipe is not wrong, since it was trained as it is: one problem says what it lacks.
    """
    has_sampler = sampler or checked.sampler is not None
    world = World.of(
        {"caption"}, checked.models, step.providers, sampler=has_sampler, image_size=True, dataset="the batch"
    )
    problems = resolve_values(world, [Request.of("the run", [value], Place(checked.recipe.path))])[1]
    if problems:
        lacking = list(dict.fromkeys(_lacking(problem) for problem in problems))
        message = "this run cannot generate images from text"
        notes = [
            ("cause", "the run lacks " + ", ".join(lacking)),
            ("received", f"models {', '.join(checked.models) or 'none'}; steps {_names(checked)}"),
        ]
        if lacking != [SAMPLER]:
            notes.append(("hint", "use a run whose recipe has all of these, such as recipes/vae_gan_flow.yaml"))
        raise RecipeError(Problem(message, checked.recipe.path, notes, code="nothing-to-generate"))


def _lacking(problem: Problem) -> str:
    """What is missing, in a word."""
    if problem.subject == "sampler":
        return SAMPLER
    return f"the model `{problem.subject}`" if problem.code == "missing-model" else f"`{problem.subject}`"


def _names(checked: RecipePlan) -> str:
    return ", ".join(step.name for step in checked.steps)
