"""A recipe file to a RecipeEntry: every problem of its form, in one pass, without knowing any component."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import evolve

from fluxflow_registry.contracts import KINDS, DatasetSettings
from fluxflow_registry.errors import Location, Place, Problem, RecipeError, choices, nearest
from fluxflow_registry.recipe import schema
from fluxflow_registry.recipe.convert import read_fields, unknown_keys
from fluxflow_registry.recipe.node import Node, describe, merge, spelt_out
from fluxflow_registry.recipe.overrides import Setting, overridden
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.recipe.schema import ComponentEntry, EvaluationEntry, RecipeEntry, StepEntry, UpdateEntry
from fluxflow_registry.registry.signature import fields_of, key_of

R = TypeVar("R")

#: Labels become file names and metric names: plain words only.
LABEL = re.compile(r"[A-Za-z0-9_]{1,64}\Z")

_HARMLESS: dict[Any, Callable[[], Any]] = {str: str, list[str]: list}

TOP = (
    *("recipe", "name", "seed", "models", "datasets"),
    *("sampler", "values", "observers", "defaults", "steps"),
)
STEP_PARTS = ("updates", "until", "values", "evaluate")
UPDATE_PARTS = ("losses", "optimizer", "scheduler", "balancer")


def load(
    path: str | Path, settings: Sequence[str | Setting] = (), root: Node | None = None
) -> tuple[RecipeEntry, list[Problem]]:
    """Read a recipe with `--set` settings applied; the problems of its form come beside it.

    What could not be read is left out of the RecipeEntry, so that checking can go on and find the rest.
    With a `root`, the recipe is that tree and `path` only its name: a program that makes recipes of
    something else gives each value the place in that from which it comes.
    Raises RecipeError where there is nothing to go on with: no file, no YAML, another version.
    """
    root = root if root is not None else read(path)
    if not isinstance(root.value, dict):
        raise RecipeError(Problem(f"a recipe is a mapping, not {describe(root.value)}", root.where))
    root = overridden(root, settings)
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


_OWNER = re.compile(r"(?: of| in|^in|^)(?: update `\w+` of)? ?step `\w+`")


def _line(where: Location | None) -> tuple[bool, list[int]]:
    """Problems of the file in reading order, those without a line first."""
    if not isinstance(where, Place) or where.line is None:
        return False, []
    return True, [where.line, where.column or 0]


# More than a dozen members: one method reads each part of a recipe.
class _Reader:
    """Walks the tree once and collects problems; each method gives what could be read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        #: Parts at the top of the recipe that could not be read: nothing follows from what is missing there.
        self.unread: set[str] = set()

    def problem(self, message: str, where: Location, notes: tuple[tuple[str, str], ...] = ()) -> None:
        self.problems.append(Problem(message, where, notes))

    def recipe(self, root: Node, path: str) -> RecipeEntry:
        self.unread |= self.keys(root, TOP, "a recipe")
        head = self.settings(schema.RecipeSettings, root, "a recipe", self.unread)
        if not LABEL.match(head.name):
            self.problem(f"`{head.name}` is no name for a recipe: {_NAMES}", root.at("name"))
        models = self.part("models", lambda: self.entries(root, "models", "model"))
        datasets = self.part("datasets", lambda: self.entries(root, "datasets", "dataset"))
        sampler = self.part("sampler", lambda: self.one(root, "sampler", "sampler"))
        values = self.part("values", lambda: self.entries(root, "values", "value"))
        return RecipeEntry(
            name=head.name,
            seed=head.seed,
            models=models,
            datasets=datasets,
            sampler=sampler,
            values=values,
            observers=self.observers(root),
            steps=self.steps(root),
            path=path,
            node=root,
            unread=frozenset(self.unread),
        )

    def part(self, key: str, read: Callable[[], R]) -> R:
        """A part at the top of the recipe, noted down when it could not be read in full."""
        before = len(self.problems)
        found = read()
        if len(self.problems) > before:
            self.unread.add(key)
        return found

    def steps(self, root: Node) -> dict[str, StepEntry]:
        defaults = self.part("defaults", lambda: self.defaults(root))
        found: dict[str, StepEntry] = {}
        previous = None
        own = self.kept(root, "steps", "step")
        for name, node in own:
            step = self.step(name, node, defaults, root, previous)
            if step is not None:
                found[name], previous = step, name
        if _empty(root, "steps") and "steps" not in self.unread:
            self.problem("a recipe has at least one step", root.at("steps"))
        # What follows a step that could not be read is not to blame for it.
        unread = {name for name, _ in own} - set(found)
        self.unread |= {"steps"} if unread else set()
        return {name: evolve(step, parent=None) if step.parent in unread else step for name, step in found.items()}

    def step(self, name: str, own: Node, defaults: Node, root: Node, previous: str | None) -> StepEntry | None:
        where = root.value["steps"].keys[name]
        what = f"step `{name}`"
        if not isinstance(own.value, dict):
            self.problem(f"{what} is described by a mapping, not {describe(own.value)}", own.where)
            return None
        node = _of_dataset(_laid_on(defaults, own, root.get("values")), own, root.get("datasets"))
        misspelt = self.keys(node, [*_keys(schema.StepSettings), *STEP_PARTS], what)
        updates = {label: self.update(label, child, what) for label, child in self.kept(node, "updates", "update")}
        if _empty(node, "updates") and "updates" not in misspelt:
            others = [label for label in root.value["steps"].value if label != name]
            meant = nearest(name, others)
            notes = (("nearest", meant),) if meant else ()
            place = node.at("updates") if node.get("updates") is not None else where
            self.problem(f"{what} needs `updates`: whose turn it is within a batch", place, notes)
        # A key that `defaults` may have meant to give is not missing from each step as well.
        excused = misspelt | (set(_keys(schema.StepSettings)) if "defaults" in self.unread else set())
        settings = self.settings(schema.StepSettings, node, what, excused)
        return StepEntry(
            name=name,
            parent=settings.after if node.get("after") is not None else previous,
            settings=settings,
            updates={label: update for label, update in updates.items() if update is not None},
            until=self.one(node, "until", "transition"),
            values=self.entries(node, "values", "value"),
            evaluate=self.evaluations(node, what),
            node=node,
            where=where,
        )

    def update(self, name: str, node: Node, step: str) -> UpdateEntry | None:
        what = f"update `{name}` of {step}"
        if not isinstance(node.value, dict):
            self.problem(f"{what} is described by a mapping, not {describe(node.value)}", node.where)
            return None
        before = len(self.problems)
        misspelt = self.keys(node, [*_keys(schema.UpdateSettings), *UPDATE_PARTS], what)
        losses = self.entries(node, "losses", "loss")
        if _empty(node, "losses") and "losses" not in misspelt:
            self.problem(f"{what} needs `losses`", node.at("losses"))
        for label in schema.FIGURES & set(losses):
            message = f"`{label}` is a figure that {what} logs beside its losses: a loss takes another name"
            self.problem(message, node.value["losses"].keys[label])
        optimizer = self.one(node, "optimizer", "optimizer")
        if _empty(node, "optimizer") and "optimizer" not in misspelt:
            self.problem(f"{what} needs an `optimizer`, such as `{{type: AdamW, lr: 1.0e-4}}`", node.at("optimizer"))
        settings = self.settings(schema.UpdateSettings, node, what, misspelt)
        self.trains(settings.trains, node, what)
        starting = {schema.OWN: node, **{label: entry.node for label, entry in losses.items()}}
        starts = {label: self.one(each, "start", "transition") for label, each in starting.items() if _waits(each)}
        return UpdateEntry(
            name=name,
            settings=settings,
            losses=losses,
            optimizer=optimizer,
            scheduler=self.one(node, "scheduler", "scheduler"),
            balancer=self.one(node, "balancer", "balancer"),
            starts={label: entry for label, entry in starts.items() if entry is not None},
            node=node,
            partial=len(self.problems) > before,
        )

    def trains(self, models: Sequence[str], node: Node, what: str) -> None:
        stated = node.get("trains")
        if stated is not None and stated.value == []:
            self.problem(f"{what} trains nothing", stated.where)
        for index, model in enumerate(models):
            if model in models[:index]:
                self.problem(f"{what} trains `{model}` twice", node.at("trains", index))

    def evaluations(self, step: Node, what: str) -> dict[str, EvaluationEntry]:
        found = {}
        for name, node in self.kept(step, "evaluate", "evaluation"):
            whose = f"evaluation `{name}` of {what}"
            if not isinstance(node.value, dict):
                self.problem(f"{whose} is described by a mapping, not {describe(node.value)}", node.where)
                continue
            misspelt = self.keys(node, [*_keys(schema.EvaluationSettings), "metrics"], whose)
            settings = self.settings(schema.EvaluationSettings, node, whose, misspelt)
            metrics = self.entries(node, "metrics", "metric")
            if _empty(node, "metrics") and "metrics" not in misspelt:
                self.problem(f"{whose} needs `metrics`", node.at("metrics"))
            found[name] = EvaluationEntry(name, settings, metrics, node)
        return found

    def observers(self, root: Node) -> dict[str, ComponentEntry | None]:
        away = {
            label for label, node in self.children(root, "observers", "observer", quiet=True) if node.value is False
        }
        present = self.entries(root, "observers", "observer", skip=away)
        return {**present, **dict.fromkeys(away)}

    def entries(self, parent: Node, key: str, kind: str, skip: Iterable[str] = ()) -> dict[str, ComponentEntry]:
        """The components under `key`, by label; a label that has no `type` is its own type."""
        found = {}
        for label, node in self.kept(parent, key, kind):
            if label not in skip:
                entry = self.entry(label, node, parent.value[key].keys[label], kind)
                if entry is not None:
                    found[label] = entry
        return found

    def one(self, parent: Node, key: str, kind: str) -> ComponentEntry | None:
        """The single component under `key`, or None."""
        node = parent.get(key)
        if node is None or node.value is None or node.value is False:
            return None
        if isinstance(node.value, dict) and node.get("type") is None:
            problems, meant = unknown_keys(node, ["type"], f"`{key}`")
            if "type" in meant:
                self.problems.extend(problem for problem in problems if problem.nearest is not None)
            else:
                self.problem(f"`{key}` needs `type`: the name of its {kind}", node.where)
            return None
        return self.entry(key, node, parent.keys[key], kind)

    def entry(self, label: str, node: Node, place: Location, kind: str) -> ComponentEntry | None:
        if isinstance(node.value, str):
            node = spelt_out(node)
        if node.value is None:
            node = Node({}, node.where, {})
        if not isinstance(node.value, dict):
            self.problem(f"{kind} `{label}` is described by a mapping, not {describe(node.value)}", node.where)
            return None
        type_node = node.get("type")
        if type_node is not None and not isinstance(type_node.value, str):
            self.problem(f"`type` of {kind} `{label}` is a name, not {describe(type_node.value)}", type_node.where)
            return None
        return ComponentEntry(
            label=label,
            type=str(type_node.value) if type_node is not None else label,
            where=type_node.where if type_node is not None else place,
            options=node.without(KINDS[kind].reserved),
            settings=self.settings(KINDS[kind].settings, node, f"{kind} `{label}`"),
            node=node,
        )

    def defaults(self, root: Node) -> Node:
        """What all steps share; unknown keys are told at their own place, once, rather than in every step."""
        node = root.get("defaults")
        if node is None or node.value is None:
            return Node({}, root.where, {})
        if not isinstance(node.value, dict):
            self.problem(f"`defaults` is a mapping, not {describe(node.value)}", node.where)
            return Node({}, node.where, {})
        known = [*_keys(schema.StepSettings), *STEP_PARTS]
        self.keys(node, known, "a step")
        steps = [step for _, step in self.children(root, "steps", "step", quiet=True)]
        updates = {label for step in steps for label, _ in self.children(step, "updates", "update", quiet=True)}
        for label, _ in self.children(node, "updates", "update"):
            if label not in updates:
                place = node.value["updates"].keys[label]
                self.problem(f"no step has an update `{label}`", place, choices(label, updates, "updates"))
        return node.only(known)

    def settings(self, cls: type[R], node: Node, what: str, misspelt: Collection[str] = ()) -> R:
        """The settings; where one is wrong its default stands in, so that checking can go on."""
        if _waits(node):
            node = node.without(["start"])
        arguments, problems = read_fields(cls, node, what, misspelt)
        self.problems.extend(problems)
        for attribute in fields_of(cls):
            if attribute.default is attrs.NOTHING:
                arguments.setdefault(str(attribute.alias), _HARMLESS[attribute.type]())
        return cls(**arguments)

    def keys(self, node: Node, known: Iterable[str], what: str) -> set[str]:
        """Tell unknown keys; gives those that they were probably meant to be."""
        problems, meant = unknown_keys(node, known, what)
        self.problems.extend(problems)
        return meant

    def kept(self, parent: Node, key: str, what: str) -> list[tuple[str, Node]]:
        """The children that `false` does not take away."""
        return [(label, node) for label, node in self.children(parent, key, what) if node.value is not False]

    def children(self, parent: Node, key: str, what: str, quiet: bool = False) -> list[tuple[str, Node]]:
        node = parent.get(key)
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, dict):
            if not quiet:
                self.problem(f"`{key}` is a mapping of names, not {describe(node.value)}", node.where)
            return []
        bad = [label for label in node.value if not LABEL.match(label)]
        empty = [label for label, child in node.value.items() if child.value is None and label not in bad]
        if not quiet:
            for label in bad:
                self.problem(f"`{label}` is no name for {_article(what)}: {_NAMES}", node.keys[label])
            for label in empty:
                message = f"{what} `{label}` says nothing: `{{}}` takes its defaults, `false` takes it away"
                self.problem(message, node.value[label].where)
        return [(label, child) for label, child in node.value.items() if label not in (*bad, *empty)]


def _waits(node: Node) -> bool:
    """Whether its `start` is a condition rather than a number of batches."""
    start = node.get("start")
    return start is not None and isinstance(start.value, (dict, str))


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


_NAMES = "letters, digits and _, at most 64"


def _keys(cls: type) -> list[str]:
    return [key_of(attribute) for attribute in fields_of(cls)]


def _empty(node: Node, key: str) -> bool:
    """Whether there is nothing under `key`, or nothing that `false` does not take away."""
    child = node.get(key)
    if child is None or child.value is None or child.value is False:
        return True
    return isinstance(child.value, dict) and all(each.value is False for each in child.value.values())


def _of_dataset(node: Node, own: Node, datasets: Node | None) -> Node:
    """A step with what its dataset's entry says of batches, where the step itself says nothing."""
    name, known = node.get("dataset"), datasets.value if datasets is not None else None
    dataset = known.get(name.value) if name and isinstance(name.value, str) and isinstance(known, dict) else None
    if dataset is None or not isinstance(dataset.value, dict):
        return node
    stated, _ = read_fields(DatasetSettings, dataset, "")  # what is wrong is told of the dataset
    keys = [key for key, value in stated.items() if value is not None and own.get(key) is None]
    return Node(
        {**node.value, **{key: dataset.value[key] for key in keys}},
        node.where,
        {**node.keys, **{key: dataset.keys[key] for key in keys}},
    )


def _laid_on(defaults: Node, step: Node, values: Node | None) -> Node:
    """The step laid on the defaults, its values on the recipe's of the same name.

    Of default updates only those that the step has count.
    """
    base = defaults
    updates = defaults.get("updates")
    if updates is not None and isinstance(updates.value, dict):
        own = step.get("updates")
        names = own.value if own is not None and isinstance(own.value, dict) else ()
        base = Node({**defaults.value, "updates": updates.only(names)}, defaults.where, defaults.keys)
    node = merge(base, step)
    mine = node.get("values")
    if mine is None or values is None or not (isinstance(mine.value, dict) and isinstance(values.value, dict)):
        return node
    return Node({**node.value, "values": merge(values.only(mine.value), mine)}, node.where, node.keys)
