"""A recipe file to a Recipe: every problem of its form, in one pass, without knowing any component."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Problem, RecipeError, choices
from fluxflow_registry.recipe import schema
from fluxflow_registry.recipe.schema import Entry, Evaluation, Recipe, Step, Update
from fluxflow_registry.recipe.source import Node, describe, merge, override, read
from fluxflow_registry.recipe.structure import fields_of, key_of, read_fields

R = TypeVar("R")

#: Labels become file names and metric names: plain words only.
LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_HARMLESS: dict[Any, Callable[[], Any]] = {str: str, list[str]: list}

TOP = (
    *("recipe", "name", "seed", "models", "datasets"),
    *("sampler", "values", "observers", "defaults", "steps"),
)
STEP_PARTS = ("updates", "until", "values", "evaluate")
UPDATE_PARTS = ("losses", "optimizer", "scheduler", "balancer")


def load(path: str | Path, settings: Sequence[str] = ()) -> tuple[Recipe, list[Problem]]:
    """Read a recipe with `--set` settings applied; the problems of its form come beside it.

    What could not be read is left out of the Recipe, so that checking can go on and find the rest.
    Raises RecipeError where there is nothing to go on with: no file, no YAML, another version.
    """
    root = read(path)
    if not isinstance(root.value, dict):
        raise RecipeError(Problem(f"a recipe is a mapping, not {describe(root.value)}", root.where))
    for setting in settings:
        root = override(root, setting)
    _check_version(root)
    reader = _Reader()
    recipe = reader.recipe(root, str(path))
    return recipe, unique(reader.problems)


def _check_version(root: Node) -> None:
    version = root.get("recipe")
    if version is None:
        close = choices("recipe", root.value, "keys")
        message = f"a recipe says which version of the language it is written in: `recipe: {schema.VERSION}`"
        place = root.keys[close[0][1]] if close[0][0] == "nearest" else root.where
        notes = (("nearest", f"`{close[0][1]}` stands here"),) if close[0][0] == "nearest" else ()
        raise RecipeError(Problem(message, place, notes))
    if version.value != schema.VERSION:
        message = f"this framework reads recipes of version {schema.VERSION}, not {describe(version.value)}"
        raise RecipeError(Problem(message, version.where))


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once: what stands in `defaults` is read anew for every step."""
    seen = {(problem.where, _OWNER.sub("", problem.message)): problem for problem in reversed(list(problems))}
    return sorted(seen.values(), key=lambda problem: _line(problem.where))


_OWNER = re.compile(r" (?:of|in) (?:update `\w+` of )?step `\w+`")


def _line(where: str | None) -> tuple[bool, list[int]]:
    """Problems of the file in reading order, those without a line first."""
    numbers = re.search(r":(\d+):(\d+)\Z", where or "")
    return numbers is not None, [int(n) for n in numbers.groups()] if numbers else []


class _Reader:
    """Walks the tree once and collects problems; each method gives what could be read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def problem(self, message: str, where: str, notes: tuple[tuple[str, str], ...] = ()) -> None:
        self.problems.append(Problem(message, where, notes))

    def recipe(self, root: Node, path: str) -> Recipe:
        self.keys(root, TOP, "a recipe")
        defaults = self.mapping(root, "defaults", "defaults")
        self.defaults(defaults)
        steps = {
            name: self.step(name, node, defaults, root, index)
            for index, (name, node) in enumerate(self.children(root, "steps", "step"))
        }
        if not steps:
            self.problem("a recipe has at least one step", root.at("steps"))
        head = self.settings(schema.RecipeSettings, root, (), "a recipe")
        if not LABEL.match(head.name):
            self.problem(f"`{head.name}` is no name for a recipe: letters, digits and _", root.at("name"))
        return Recipe(
            name=head.name,
            seed=head.seed,
            models=self.entries(root, "models", "model"),
            datasets=self.entries(root, "datasets", "dataset"),
            sampler=self.one(root, "sampler", "sampler"),
            values=self.entries(root, "values", "value", schema.NeedSettings),
            observers=self.observers(root),
            steps={name: step for name, step in steps.items() if step is not None},
            path=path,
            node=root,
        )

    def step(self, name: str, own: Node, defaults: Node, root: Node, index: int) -> Step | None:
        node = _with_defaults(defaults, own)
        where = root.value["steps"].keys[name]
        what = f"step `{name}`"
        if not isinstance(node.value, dict):
            self.problem(f"{what} is described by a mapping, not {describe(node.value)}", node.where)
            return None
        self.keys(node, [*_keys(schema.StepSettings), *STEP_PARTS], what)
        updates = {label: self.update(label, child, what) for label, child in self.children(node, "updates", "update")}
        if node.get("updates") is None:
            self.problem(f"{what} needs `updates`: whose turn it is within a batch", where)
        elif not node.value["updates"].value:
            self.problem(f"{what} has no update: nothing would be trained", node.at("updates"))
        settings = self.settings(schema.StepSettings, node, STEP_PARTS, what)
        previous = list(root.value["steps"].value)[index - 1] if index else None
        return Step(
            name=name,
            parent=settings.after if node.get("after") is not None else previous,
            settings=settings,
            updates={label: update for label, update in updates.items() if update is not None},
            until=self.one(node, "until", "transition"),
            values=self.entries(node, "values", "value", schema.NeedSettings),
            evaluate=self.evaluations(node, what),
            node=node,
            where=where,
        )

    def update(self, name: str, node: Node, step: str) -> Update | None:
        what = f"update `{name}` of {step}"
        if not isinstance(node.value, dict):
            self.problem(f"{what} is described by a mapping, not {describe(node.value)}", node.where)
            return None
        before = len(self.problems)
        self.keys(node, [*_keys(schema.UpdateSettings), *UPDATE_PARTS], what)
        losses = self.entries(node, "losses", "loss", schema.LossSettings)
        optimizer = self.one(node, "optimizer", "optimizer")
        if node.get("losses") is None:
            self.problem(f"{what} needs `losses`", node.where)
        if node.get("optimizer") is None:
            self.problem(f"{what} needs an `optimizer`, such as `{{type: AdamW, lr: 1.0e-4}}`", node.where)
        settings = self.settings(schema.UpdateSettings, node, UPDATE_PARTS, what)
        return Update(
            name=name,
            settings=settings,
            losses=losses,
            optimizer=optimizer,
            scheduler=self.one(node, "scheduler", "scheduler"),
            balancer=self.one(node, "balancer", "balancer"),
            node=node,
            partial=len(self.problems) > before,
        )

    def evaluations(self, step: Node, what: str) -> dict[str, Evaluation]:
        found = {}
        for name, node in self.children(step, "evaluate", "evaluation"):
            whose = f"evaluation `{name}` of {what}"
            if not isinstance(node.value, dict):
                self.problem(f"{whose} is described by a mapping, not {describe(node.value)}", node.where)
                continue
            self.keys(node, [*_keys(schema.EvaluationSettings), "metrics"], whose)
            settings = self.settings(schema.EvaluationSettings, node, ("metrics",), whose)
            metrics = self.entries(node, "metrics", "metric", schema.NeedSettings)
            if node.get("metrics") is None:
                self.problem(f"{whose} needs `metrics`", node.where)
            found[name] = Evaluation(name, settings, metrics, node)
        return found

    def observers(self, root: Node) -> dict[str, Entry | None]:
        away = {
            label for label, node in self.children(root, "observers", "observer", quiet=True) if node.value is False
        }
        present = self.entries(root, "observers", "observer", skip=away)
        return {**present, **dict.fromkeys(away)}

    def entries(
        self, parent: Node, key: str, kind: str, settings: type | None = None, skip: Iterable[str] = ()
    ) -> dict[str, Entry]:
        """The components under `key`, by label; a label that has no `type` is its own type."""
        found = {}
        for label, node in self.children(parent, key, kind):
            if label not in skip:
                entry = self.entry(label, node, parent.value[key].keys[label], kind, settings)
                if entry is not None:
                    found[label] = entry
        return found

    def one(self, parent: Node, key: str, kind: str) -> Entry | None:
        """The single component under `key`, or None."""
        node = parent.get(key)
        if node is None or node.value is None:
            return None
        if isinstance(node.value, dict) and node.get("type") is None:
            close = choices("type", node.value, "keys")
            place = node.keys[close[0][1]] if close[0][0] == "nearest" else node.where
            notes = (("nearest", f"`{close[0][1]}` stands here"),) if close[0][0] == "nearest" else ()
            self.problem(f"`{key}` needs `type`: the name of a {kind}", place, notes)
            return None
        return self.entry(key, node, parent.keys[key], kind, None)

    def entry(self, label: str, node: Node, place: str, kind: str, settings: type | None) -> Entry | None:
        if isinstance(node.value, str):  # `sampler: heun` is `sampler: {type: heun}`
            node = Node({"type": node}, node.where, {"type": node.where})
        if node.value is None:
            node = Node({}, node.where, {})
        if not isinstance(node.value, dict):
            self.problem(f"{kind} `{label}` is described by a mapping, not {describe(node.value)}", node.where)
            return None
        type_node = node.get("type")
        if type_node is not None and not isinstance(type_node.value, str):
            self.problem(f"`type` of {kind} `{label}` is a name, not {describe(type_node.value)}", type_node.where)
            return None
        reserved = KINDS[kind].reserved
        mine = Node(
            {k: v for k, v in node.value.items() if k in reserved and k != "type"},
            node.where,
            {k: v for k, v in node.keys.items() if k in reserved and k != "type"},
        )
        parsed = self.settings(settings, mine, (), f"{kind} `{label}`") if settings else None
        return Entry(
            label=label,
            type=str(type_node.value) if type_node is not None else label,
            where=type_node.where if type_node is not None else place,
            options=node.without(reserved),
            settings=parsed,
            node=node,
        )

    def defaults(self, node: Node) -> None:
        """Name unknown keys of `defaults` at their own place, once, rather than in every step."""
        self.keys(node, [*_keys(schema.StepSettings), *STEP_PARTS], "a step")
        for key in [key for key in node.value if key not in (*_keys(schema.StepSettings), *STEP_PARTS)]:
            del node.value[key]

    def settings(self, cls: type[R], node: Node, parts: Iterable[str], what: str) -> R:
        """The settings; where one is wrong its default stands in, so that checking can go on."""
        known = [key for key in node.value if key in _keys(cls)]
        mine = Node({k: node.value[k] for k in known}, node.where, {k: node.keys[k] for k in known})
        arguments, problems = read_fields(cls, mine, what)
        self.problems.extend(problems)
        for attribute in fields_of(cls):
            if attribute.default is attrs.NOTHING:
                arguments.setdefault(str(attribute.alias), _HARMLESS[attribute.type]())
        return cls(**arguments)

    def keys(self, node: Node, known: Iterable[str], what: str) -> None:
        allowed = list(known)
        for key in node.value:
            if key not in allowed:
                self.problem(f"unknown key `{key}` in {what}", node.keys[key], choices(key, allowed, "keys"))

    def mapping(self, parent: Node, key: str, what: str) -> Node:
        node = parent.get(key)
        if node is None or node.value is None:
            return Node({}, parent.where, {})
        if not isinstance(node.value, dict):
            self.problem(f"`{what}` is a mapping, not {describe(node.value)}", node.where)
            return Node({}, node.where, {})
        return Node(dict(node.value), node.where, node.keys)

    def children(self, parent: Node, key: str, what: str, quiet: bool = False) -> list[tuple[str, Node]]:
        node = parent.get(key)
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            if not quiet:
                self.problem(f"`{key}` is a mapping of names, not {describe(node.value)}", node.where)
            return []
        bad = [label for label in node.value if not LABEL.match(label)]
        if not quiet:
            for label in bad:
                self.problem(f"`{label}` is no name for a {what}: letters, digits and _", node.keys[label])
        return [(label, child) for label, child in node.value.items() if label not in bad]


def _keys(cls: type) -> list[str]:
    return [key_of(attribute) for attribute in fields_of(cls)]


def _with_defaults(defaults: Node, step: Node) -> Node:
    """The step laid on the defaults; a default update speaks only of updates that the step has."""
    if not isinstance(step.value, dict):
        return step
    base = defaults
    updates, own = defaults.get("updates"), step.get("updates")
    if updates is not None and isinstance(updates.value, dict):
        names = own.value if own is not None and isinstance(own.value, dict) else {}
        shared = updates.without([name for name in updates.value if name not in names])
        base = Node({**defaults.value, "updates": shared}, defaults.where, defaults.keys)
    return merge(base, step)
