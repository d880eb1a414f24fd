"""Whether a run can draw pictures from text at all."""

from __future__ import annotations

from fluxflow_registry.errors import Place, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.values import Request, World, resolve_values

SAMPLER = "a sampler, which `--sampler NAME` gives"


def require_drawable(checked: RecipePlan, step: StepPlan, value: str, sampler: bool) -> None:
    """Raise RecipeError where `value` cannot be computed from captions; `sampler`: one is stated elsewhere.

    That is no mistake in the recipe, which was trained as it is: one problem says what it lacks.
    """
    there = sampler or checked.sampler is not None
    world = World.of({"caption"}, checked.models, step.providers, sampler=there, image_size=True, dataset="the batch")
    problems = resolve_values(world, [Request.of("the run", [value], Place(checked.recipe.path))])[1]
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
    if problem.subject == "sampler":
        return SAMPLER
    return f"the model `{problem.subject}`" if problem.code == "missing-model" else f"`{problem.subject}`"


def _names(checked: RecipePlan) -> str:
    return ", ".join(step.name for step in checked.steps)
