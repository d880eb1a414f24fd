"""A recipe file to a RecipeEntry: every problem of its form, in one pass, without knowing any component."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import evolve

from fluxflow_registry.contracts import KINDS, DatasetSettings
from fluxflow_registry.errors import Choices, Flag, Location, Note, Problem, RecipeError, nearest, unique
from fluxflow_registry.recipe import schema
from fluxflow_registry.recipe.convert import not_a_mapping, read_fields, unknown_keys
from fluxflow_registry.recipe.node import Node, describe_value, expanded, merge
from fluxflow_registry.recipe.overrides import Setting, with_settings
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.recipe.schema import ComponentEntry, EvaluationEntry, RecipeEntry, StepEntry, UpdateEntry
from fluxflow_registry.registry.signature import fields_of, keys_of

R = TypeVar("R")

#: Labels become file names and metric names: plain words only.
LABEL = re.compile(r"[A-Za-z0-9_]{1,64}\Z")

#: What takes the place of a required setting that is missing or wrong, so that checking can continue.
_STAND_INS: dict[Any, Callable[[], Any]] = {str: str, list[str]: list}

TOP = (*("recipe", "name", "seed", "models", "datasets"), *("sampler", "values", "observers", "defaults", "steps"))
STEP_PARTS = ("updates", "until", "values", "evaluate")
UPDATE_PARTS = ("losses", "optimizer", "scheduler", "balancer")

STEP_KEYS = (*keys_of(schema.StepSettings), *STEP_PARTS)
UPDATE_KEYS = (*keys_of(schema.UpdateSettings), *UPDATE_PARTS)
EVALUATION_KEYS = (*keys_of(schema.EvaluationSettings), "metrics")

#: The keys of what the recipe names itself, beside components.
_KEYS = {"step": STEP_KEYS, "update": UPDATE_KEYS, "evaluation": EVALUATION_KEYS}


def load(
    path: str | Path, settings: Sequence[str | Setting] = (), root: Node | None = None
) -> tuple[RecipeEntry, list[Problem]]:
    """Read a recipe with `--set` settings applied, and return it with the problems of its form.

    What could not be read is left out of the RecipeEntry, so that checking can continue and find the rest.
    With a `root`, the recipe is that tree and `path` only its name: a program that translates something
    else into a recipe gives each value its location in the original.
    Raises RecipeError where nothing is left to check: no file, no YAML, another version.
    """
    root = root if root is not None else read(path)
    if not isinstance(root.value, dict):
        raise RecipeError(not_a_mapping("a recipe", root))
    root = with_settings(root, settings)
    _check_version(root)
    reader = _Reader()
    recipe = reader.recipe(root, str(path))
    return recipe, unique(reader.problems)


def order(steps: Mapping[str, StepEntry]) -> tuple[list[str], list[Problem]]:
    """The steps with parents first, in the order of the file where that is possible, and every problem.

    Unknown parents, cycles, and steps that can only be reached through either are reported.
    """
    problems = []
    for name, step in steps.items():
        if step.parent is not None and step.parent not in steps:
            message = f"step `{name}` starts after `{step.parent}`, but the recipe has no such step"
            where = step.node.at("after")
            problems.append(Problem(message, where, code="unknown-name", subject=step.parent, choices=steps))
    done: list[str] = []
    waiting = list(steps)
    while ready := [n for n in waiting if steps[n].parent is None or steps[n].parent in done]:
        done.append(ready[0])
        waiting.remove(ready[0])
    for name in waiting:
        chain = _ancestors(steps, name)
        cycle = chain[chain.index(chain[-1]) :]
        if len(cycle) > 1 and name == min(cycle):
            message, where = f"steps wait for each other: {' -> '.join(cycle)}", steps[name].node.at("after")
            problems.append(Problem(message, where, code="cycle", subject=name))
        elif name not in cycle and len(chain) > 2:
            blocker = chain[1] if len(cycle) > 1 else chain[-2]
            message = f"step `{name}` can never start: it waits for step `{blocker}`"
            problems.append(Problem(message, steps[name].where, code="not-reached", subject=name))
    return done, problems


def _ancestors(steps: Mapping[str, StepEntry], name: str) -> list[str]:
    """The step, its parent, its parent's parent ... to an unknown name or to the first repetition."""
    chain = [name]
    while (parent := steps[chain[-1]].parent) is not None:
        chain.append(parent)
        if parent in chain[:-1] or parent not in steps:
            break
    return chain


def _check_version(root: Node) -> None:
    version = root.get("recipe")
    if version is None:
        meant = nearest("recipe", set(root.value) - set(TOP))
        if meant is not None:
            message = f"unknown key `{meant}` in the recipe, which must state its version: `recipe: {schema.VERSION}`"
            raise RecipeError(message, root.keys[meant], code="unknown-key", subject=meant, choices=TOP)
        message = f"the recipe needs `recipe`, the version of the recipe language: add `recipe: {schema.VERSION}`"
        raise RecipeError(message, root.where, code="missing-key", subject="recipe")
    if version.value != schema.VERSION:
        found = describe_value(version.value)
        message = f"`recipe` must be {schema.VERSION}, the version of the recipe language, got {found}"
        raise RecipeError(message, version.where, code="unsupported-version", subject="recipe")


# More than a dozen members: one method reads each part of a recipe.
class _Reader:
    """Walks the tree once and collects problems; each method returns what could be read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        #: Parts at the top of the recipe that could not be read: nothing follows from what is missing there.
        self.unread: set[str] = set()

    def report(
        self, message: str, where: Location, code: str, subject: str, choices: Iterable[str] | None = None
    ) -> None:
        self.problems.append(Problem(message, where, code=code, subject=subject, choices=choices))

    def require(self, node: Node, key: str, misspelled: Collection[str], message: str, *notes: Note) -> None:
        if _empty(node, key) and key not in misspelled:
            self.problems.append(Problem(message, node.at(key), notes, code="missing-key", subject=key))

    def mappings(self, parent: Node, key: str, kind: str, owner: str = "") -> Iterator[tuple[str, str, Node]]:
        """The children that are mappings, each with its label and its name in messages; others are reported."""
        for label, node in self.present(parent, key, kind):
            what = f"{kind} `{label}`{owner}"
            if isinstance(node.value, dict):
                yield label, what, node
                continue
            self.problems.append(_with_missing_level(not_a_mapping(what, node, label), label, kind, key, _KEYS[kind]))

    def recipe(self, root: Node, path: str) -> RecipeEntry:
        self.unread |= self.keys(root, TOP, "the recipe")
        head = self.settings(schema.RecipeSettings, root, "the recipe", self.unread)
        if not LABEL.match(head.name):
            self.invalid_name(head.name, "recipe", root.at("name"))
        return RecipeEntry(
            name=head.name,
            seed=head.seed,
            models=self.part("models", lambda: self.entries(root, "models", "model")),
            datasets=self.part("datasets", lambda: self.entries(root, "datasets", "dataset")),
            sampler=self.part("sampler", lambda: self.single(root, "sampler", "sampler")),
            values=self.part("values", lambda: self.entries(root, "values", "value")),
            observers=self.observers(root),
            steps=self.steps(root),
            path=path,
            node=root,
            unread=frozenset(self.unread),
        )

    def part(self, key: str, read: Callable[[], R]) -> R:
        """A part at the top of the recipe, recorded as unread when it has problems."""
        before = len(self.problems)
        found = read()
        if len(self.problems) > before:
            self.unread.add(key)
        return found

    def steps(self, root: Node) -> dict[str, StepEntry]:
        defaults = self.part("defaults", lambda: self.defaults(root))
        found: dict[str, StepEntry] = {}
        previous = None
        for name, what, node in self.mappings(root, "steps", "step"):
            found[name] = self.step(name, what, node, defaults, root, previous)
            previous = name
        self.require(root, "steps", self.unread, "the recipe needs `steps`: at least one step, by name")
        # A step that follows one that could not be read is not reported for that.
        unread = {name for name, _ in self.present(root, "steps", "step", quiet=True)} - set(found)
        self.unread |= {"steps"} if unread else set()
        return {name: evolve(step, parent=None) if step.parent in unread else step for name, step in found.items()}

    def step(self, name: str, what: str, own: Node, defaults: Node, root: Node, previous: str | None) -> StepEntry:
        where = root.value["steps"].keys[name]
        node = _with_dataset_settings(_with_defaults(defaults, own, root), own, root)
        misspelled = self.keys(node, STEP_KEYS, what)
        children = self.mappings(node, "updates", "update", f" of {what}")
        updates = {label: self.update(label, owner, child) for label, owner, child in children}
        if _empty(node, "updates") and "updates" not in misspelled:
            others = [label for label in root.under("steps") if label != name]
            meant = Choices.of(name, others) if nearest(name, others) else None
            place = node.at("updates") if node.get("updates") is not None else where
            # `--set` of a misspelled step adds one.
            owner = f"{what} is not in the recipe; a new step" if isinstance(where, Flag) else what
            message = f"{owner} needs `updates`: the optimizer updates to run on each batch, in order"
            self.problems.append(Problem(message, place, code="missing-key", subject="updates", choices=meant))
        # What a misspelled key of `defaults` was meant to set is not reported as missing from each step too.
        excused = misspelled | (set(keys_of(schema.StepSettings)) if "defaults" in self.unread else set())
        settings = self.settings(schema.StepSettings, node, what, excused)
        return StepEntry(
            name=name,
            parent=settings.after if node.get("after") is not None else previous,
            settings=settings,
            updates=updates,
            until=self.single(node, "until", "transition"),
            values=self.entries(node, "values", "value"),
            evaluate=self.evaluations(node, what),
            node=node,
            where=where,
        )

    def update(self, name: str, what: str, node: Node) -> UpdateEntry:
        before = len(self.problems)
        misspelled = self.keys(node, UPDATE_KEYS, what)
        losses = self.entries(node, "losses", "loss")
        self.require(node, "losses", misspelled, f"{what} needs `losses`: at least one, by name")
        for label in schema.UPDATE_METRICS & set(losses):
            message = f"loss `{label}`: the name is reserved ({what} logs a metric `{label}`); rename the loss"
            self.report(message, node.value["losses"].keys[label], "duplicate-name", label)
        optimizer = self.single(node, "optimizer", "optimizer")
        instead = ("instead", "`optimizer: {type: AdamW, lr: 1.0e-4}`, for example")
        self.require(node, "optimizer", misspelled, f"{what} needs `optimizer`: the name of an optimizer", instead)
        settings = self.settings(schema.UpdateSettings, node, what, misspelled)
        self.trains(settings.trains, node, what)
        starting = {schema.OWN: node, **{label: entry.node for label, entry in losses.items()}}
        conditional = {label: each for label, each in starting.items() if _starts_on_condition(each)}
        starts = {label: self.single(each, "start", "transition") for label, each in conditional.items()}
        return UpdateEntry(
            name=name,
            settings=settings,
            losses=losses,
            optimizer=optimizer,
            scheduler=self.single(node, "scheduler", "scheduler"),
            balancer=self.single(node, "balancer", "balancer"),
            starts={label: entry for label, entry in starts.items() if entry is not None},
            node=node,
            partial=len(self.problems) > before,
        )

    def trains(self, models: Sequence[str], node: Node, what: str) -> None:
        written = node.get("trains")
        if written is not None and written.value == []:
            message = f"{what} trains no model: list at least one under `trains`"
            self.report(message, written.where, "missing-value", "trains")
        for index, model in enumerate(models):
            if model in models[:index]:
                message = f"{what} lists model `{model}` twice under `trains`"
                self.report(message, node.at("trains", index), "duplicate-name", model)

    def evaluations(self, step: Node, what: str) -> dict[str, EvaluationEntry]:
        found = {}
        for name, owner, node in self.mappings(step, "evaluate", "evaluation", f" of {what}"):
            misspelled = self.keys(node, EVALUATION_KEYS, owner)
            settings = self.settings(schema.EvaluationSettings, node, owner, misspelled)
            metrics = self.entries(node, "metrics", "metric")
            self.require(node, "metrics", misspelled, f"{owner} needs `metrics`: at least one, by name")
            found[name] = EvaluationEntry(name, settings, metrics, node)
        return found

    def observers(self, root: Node) -> dict[str, ComponentEntry | None]:
        children = self.children(root, "observers", "observer", quiet=True)
        removed = [label for label, node in children if node.value is False]
        return {**self.entries(root, "observers", "observer"), **dict.fromkeys(removed)}

    def entries(self, parent: Node, key: str, kind: str) -> dict[str, ComponentEntry]:
        """The components under `key`, by label; the label of an entry without a `type` is its type."""
        children = self.present(parent, key, kind)
        read = {label: self.entry(label, node, parent.value[key].keys[label], kind) for label, node in children}
        return {label: entry for label, entry in read.items() if entry is not None}

    def single(self, parent: Node, key: str, kind: str) -> ComponentEntry | None:
        """The single component under `key`, or None."""
        node = parent.get(key)
        if node is None or node.value is None or node.value is False:
            return None
        if isinstance(node.value, dict) and node.get("type") is None:
            problems, meant = unknown_keys(node, ["type"], f"`{key}`")
            if "type" in meant:
                self.problems.extend(problem for problem in problems if problem.nearest is not None)
            else:
                self.report(f"`{key}` needs `type`: the name of {_a(kind)}", node.where, "missing-key", "type")
            return None
        return self.entry(key, node, parent.keys[key], kind)

    def entry(self, label: str, node: Node, place: Location, kind: str) -> ComponentEntry | None:
        what = f"{kind} `{label}`" if label != kind else f"`{label}`"
        if isinstance(node.value, str):
            node = expanded(node)
        if node.value is None:
            node = Node({}, node.where, {})
        if not isinstance(node.value, dict):
            problem = not_a_mapping(what, node, label, f" or the name of {_a(kind)}")
            self.problems.append(_with_missing_level(problem, label, kind, KINDS[kind].plural, KINDS[kind].reserved))
            return None
        type_node = node.get("type")
        if type_node is not None and not isinstance(type_node.value, str):
            message = f"`type` of {what} must be the name of {_a(kind)}, got {describe_value(type_node.value)}"
            self.report(message, type_node.where, "wrong-type", "type")
            return None
        return ComponentEntry(
            label=label,
            type=str(type_node.value) if type_node is not None else label,
            where=type_node.where if type_node is not None else place,
            options=node.without(KINDS[kind].reserved),
            settings=self.settings(KINDS[kind].settings, node, what),
            node=node,
        )

    def defaults(self, root: Node) -> Node:
        """What all steps share; an unknown key is reported once, where it is, rather than in every step."""
        node = root.get("defaults")
        if node is None or node.value is None:
            return Node({}, root.where, {})
        if not isinstance(node.value, dict):
            self.problems.append(not_a_mapping("`defaults`", node, "defaults"))
            return Node({}, node.where, {})
        self.keys(node, STEP_KEYS, "`defaults`")
        steps = [step for _, step in self.children(root, "steps", "step", quiet=True)]
        updates = {label for step in steps for label, _ in self.children(step, "updates", "update", quiet=True)}
        for label, _ in self.children(node, "updates", "update"):
            if label not in updates:
                place = node.value["updates"].keys[label]
                message = f"`defaults` has settings for update `{label}`, but no step has such an update"
                self.report(message, place, "unknown-name", label, updates)
        return node.only(STEP_KEYS)

    def settings(self, cls: type[R], node: Node, what: str, misspelled: Collection[str] = ()) -> R:
        """The settings; one that is wrong has its default, so that checking can continue."""
        if _starts_on_condition(node):
            node = node.without(["start"])
        arguments, problems = read_fields(cls, node, what, misspelled)
        self.problems.extend(problems)
        for attribute in fields_of(cls):
            if attribute.default is attrs.NOTHING:
                arguments.setdefault(str(attribute.alias), _STAND_INS[attribute.type]())
        return cls(**arguments)

    def keys(self, node: Node, known: Iterable[str], what: str) -> set[str]:
        """Report unknown keys, and return the keys that they were probably meant to be."""
        problems, meant = unknown_keys(node, known, what)
        self.problems.extend(problems)
        return meant

    def present(self, parent: Node, key: str, what: str, quiet: bool = False) -> list[tuple[str, Node]]:
        """The children that `false` does not remove."""
        return [(label, node) for label, node in self.children(parent, key, what, quiet) if node.value is not False]

    def children(self, parent: Node, key: str, what: str, quiet: bool = False) -> list[tuple[str, Node]]:
        """The named children under `key` that have a valid name and are not empty."""
        node = parent.get(key)
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            if not quiet:
                self.problems.append(not_a_mapping(f"`{key}`", node, key))
            return []
        bad = [label for label in node.value if not LABEL.match(label)]
        empty = [label for label, child in node.value.items() if child.value is None and label not in bad]
        if not quiet:
            for label in bad:
                self.invalid_name(label, what, node.keys[label])
            for label in empty:
                message = f"{what} `{label}` is empty: write `{{}}` to use its defaults or `false` to remove it"
                self.report(message, node.value[label].where, "missing-value", label)
        return [(label, child) for label, child in node.value.items() if label not in (*bad, *empty)]

    def invalid_name(self, name: str, what: str, where: Location) -> None:
        message = f"`{name}` is not a valid name for {_a(what)}: use letters, digits and `_`, at most 64 characters"
        self.report(message, where, "invalid-name", name)


def _with_missing_level(problem: Problem, label: str, kind: str, key: str, keys: Collection[str]) -> Problem:
    """The problem of an entry; where its name is one of the `keys` of an entry, the level of names was left out."""
    if label not in keys:
        return problem
    hint = f"`{label}` is a key of {_a(kind)}, which needs a name: `{key}.NAME.{label}`"
    return evolve(problem, notes=(*problem.notes, ("hint", hint)))


def _starts_on_condition(node: Node) -> bool:
    """Whether its `start` is a condition rather than a number of batches."""
    start = node.get("start")
    return start is not None and isinstance(start.value, (dict, str))


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _empty(node: Node, key: str) -> bool:
    """Whether there is nothing under `key`, or only what `false` removes."""
    child = node.get(key)
    if child is None or child.value is None or child.value is False:
        return True
    return isinstance(child.value, dict) and all(each.value is False for each in child.value.values())


def _with_dataset_settings(node: Node, own: Node, root: Node) -> Node:
    """A step with the batch settings of its dataset's entry, where the step itself has none."""
    name = node.get("dataset")
    dataset = root.under("datasets").get(name.value) if name and isinstance(name.value, str) else None
    if dataset is None or not isinstance(dataset.value, dict):
        return node
    read, _ = read_fields(DatasetSettings, dataset, "")  # problems are reported with the dataset
    added = dataset.only(key for key, value in read.items() if value is not None and own.get(key) is None)
    return Node({**node.value, **added.value}, node.where, {**node.keys, **added.keys})


def _with_defaults(defaults: Node, step: Node, root: Node) -> Node:
    """The step merged over the defaults, its values over the recipe's of the same name.

    Of the updates in `defaults`, only those that the step has are merged.
    """
    if defaults.under("updates"):
        updates = defaults.value["updates"].only(step.under("updates"))
        defaults = Node({**defaults.value, "updates": updates}, defaults.where, defaults.keys)
    node = merge(defaults, step)
    if not (root.under("values") and node.under("values")):
        return node
    values = merge(root.value["values"].only(node.under("values")), node.value["values"])
    return Node({**node.value, "values": values}, node.where, node.keys)
