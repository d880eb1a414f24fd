"""Plugins of installed distributions: each is loaded on its own, and one that fails is a row with its problems."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from fluxflow_registry import __version__
from fluxflow_registry.cli.describe import describe
from fluxflow_registry.errors import PluginError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..synthetic import LOSS, Site

RECIPE = """
recipe: 1
models: {compressor: {}, expander: {}}
datasets: {shapes: {}}
steps:
  only:
    dataset: shapes
    updates:
      vae:
        trains: [compressor, expander]
        losses:
          LABEL: {}
        optimizer: {type: AdamW}
"""


def row(registry: Registry, name: str) -> Plugin:
    (found,) = [plugin for plugin in registry.plugins if plugin.name == name]
    return found


@pytest.mark.parametrize(
    ("source", "line", "error"),
    [
        ("raise ImportError('no module named kernels')", 1, "ImportError: no module named kernels"),
        ("import sys\nsys.exit(3)", 2, "SystemExit: 3"),
        ("def broken(:\n", 1, "SyntaxError: invalid syntax (bad_one.py, line 1)"),
        ("import a_module_that_is_not_there", 1, "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("raise AssertionError", 1, "AssertionError"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", 2, "Odd: odd"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_a_row(site: Site, source: str, line: int, error: str) -> None:
    site.distribution("bad-distribution", {"bad": "bad_one"}, version="2.5", bad_one=source)
    site.loss("good-distribution", "made_up", plugin="good")

    registry = load()

    bad = row(registry, "bad")
    assert (bad.name, bad.distribution, bad.version, bad.where) == ("bad", "bad-distribution", "2.5", "bad_one")
    assert bad.error == f"bad_one.py:{line}  plugin `bad` cannot be imported: {error}"
    assert [(problem.code, problem.subject) for problem in bad.problems] == [("broken-plugin", "bad")]
    assert row(registry, "good").error is None
    assert {"made_up", "mse", "l1"} <= set(registry.names("loss"))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
        ("register('nothing', 5)", "loss `nothing` must be a function or a class, not int"),
        ("register('object', object())", "loss `object` must be a function or a class, not object"),
        ("register('a b', lambda image: image)", "loss name `a b` is not valid: use letters, digits and _"),
        ("register(7, lambda image: image)", "loss name `7` is not valid"),
        ("register('builtin', print)", "loss `builtin` takes `*args`"),
    ],
)
def test_a_plugin_that_fails_to_register_is_a_row(site: Site, body: str, error: str) -> None:
    source = f"""
        from fluxflow_registry import hookimpl

        @hookimpl
        def fluxflow_register_losses(register):
            register("first", lambda image: image)
            {body}
    """
    site.distribution("bad-distribution", {"bad": "bad_two"}, bad_two=source)

    registry = load()

    assert error in str(row(registry, "bad").error)
    assert "at 0x" not in str(row(registry, "bad").error)
    assert registry.get("loss", "first") is None
    assert registry.get("loss", "mse") is not None


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("def fluxflow_register_loses(register):", "unknown hook `fluxflow_register_loses` in plugin `bad`"),
        ("def fluxflow_register_losses(registr):", "`bad` takes (registr), but is called with (register)"),
        (
            "def fluxflow_register_losses(register, more):",
            "`bad` takes (register, more), but is called",
        ),
        ("def fluxflow_register_losses():", "`bad` takes (), but is called with (register)"),
    ],
)
def test_a_wrong_hook_is_reported_with_its_file_and_line(site: Site, hook: str, message: str) -> None:
    source = f"""
        from fluxflow_registry import hookimpl

        @hookimpl
        {hook}
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_hook"}, bad_hook=source)

    registry = load()

    error = str(row(registry, "bad").error)
    assert message in error
    assert "bad_hook.py:3" in error


def test_a_misspelled_hook_is_reported_with_the_nearest(site: Site) -> None:
    source = """
        from fluxflow_registry import hookimpl

        @hookimpl
        def fluxflow_register_optimisers(register):
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_hook"}, bad_hook=source)

    registry = load()

    (problem,) = row(registry, "bad").problems
    assert (problem.code, problem.nearest) == ("unknown-hook", "fluxflow_register_optimizers")


def test_a_hook_that_is_not_marked_is_reported_with_its_file_and_line(site: Site) -> None:
    source = """
        def fluxflow_register_losses(register):
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_unmarked"}, bad_unmarked=source)

    registry = load()

    error = str(row(registry, "bad").error)
    message = "`fluxflow_register_losses` of plugin `bad` is not marked as a hook: put `@hookimpl` above it"
    assert error == f"bad_unmarked.py:1  {message}"


def test_a_generator_as_a_hook_is_a_row_and_the_others_are_loaded(site: Site) -> None:
    source = """
        from fluxflow_registry import hookimpl

        @hookimpl(wrapper=True)
        def fluxflow_register_losses(register):
            return None
    """
    site.distribution("bad-distribution", {"bad": "bad_wrapper"}, bad_wrapper=source)

    registry = load()

    assert "PluginValidationError" in str(row(registry, "bad").error)
    assert registry.get("loss", "mse") is not None


def test_a_module_without_hooks_is_reported_with_the_available_ones(site: Site) -> None:
    site.distribution("bad-distribution", {"bad": "bad_empty"}, bad_empty="")

    registry = load()

    error = str(row(registry, "bad").error)
    assert "bad_empty  plugin `bad` has no hook" in error
    assert "fluxflow_register_losses" in error


def test_an_object_with_hooks_is_a_plugin_as_well(site: Site) -> None:
    source = """
        from fluxflow_registry import hookimpl

        class Plugin:
            @hookimpl
            def fluxflow_register_losses(self, register):
                register("held", lambda image: image)

        plugin = Plugin()
    """
    site.distribution("some-distribution", {"held": "holder:plugin"}, holder=source)

    registry = load()

    assert row(registry, "held").error is None
    assert registry.get("loss", "held") is not None


def test_two_distributions_with_one_plugin_name_get_neither(site: Site) -> None:
    site.distribution("first-distribution", {"twin": "twin_a"}, twin_a=LOSS.format(name="loss_a"))
    site.distribution("second-distribution", {"twin": "twin_b"}, twin_b=LOSS.format(name="loss_b"))

    registry = load()

    errors = {plugin.distribution: plugin.error for plugin in registry.plugins if plugin.name == "twin"}
    assert errors == {
        "first-distribution": "the plugin name `twin` is also used by second-distribution",
        "second-distribution": "the plugin name `twin` is also used by first-distribution",
    }
    assert registry.get("loss", "loss_a") is None
    assert registry.get("loss", "mse") is not None


def test_two_distributions_with_one_component_name_are_both_named(site: Site, prove: Callable[..., RecipePlan]) -> None:
    both = LOSS + '        register("{own}", {name})\n'
    site.distribution("first-distribution", {"first": "clash_a"}, clash_a=both.format(name="clashing", own="own_a"))
    site.distribution("second-distribution", {"second": "clash_b"}, clash_b=both.format(name="clashing", own="own_b"))
    registry = load()

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("LABEL", "clashing"), using=registry)

    error = row(registry, "first").error
    assert error == row(registry, "second").error
    assert error == (
        "loss `clashing` is registered by first, first-distribution 1.0 (clash_a.py:4) "
        "and by second, second-distribution 1.0 (clash_b.py:4)"
    )
    (problem,) = caught.value.problems
    assert problem.message == (
        "loss `clashing` in step `only`, update `vae` is registered by two plugins: remove one of them"
    )
    assert str(problem.where).endswith("r.yaml:12:11")
    assert dict(problem.notes)["defined in"] == "clash_b.py:4   (second, second-distribution 1.0)"
    for label in ("own_a", "own_b", "mse"):
        prove(RECIPE.replace("LABEL", label), using=registry)


def test_a_damaged_entry_points_file_is_a_row_and_the_plugins_are_loaded(site: Site) -> None:
    site.distribution("damaged-distribution", {}, version="0.3")
    (site.folder / "damaged_distribution-0.3.dist-info" / "entry_points.txt").write_text("[fluxflow]\nno sign\n")

    registry = load()

    assert row(registry, "damaged-distribution").version == "0.3"
    assert "TypeError" in str(row(registry, "damaged-distribution").error)
    assert registry.get("loss", "mse") is not None


def test_a_damaged_entry_points_file_without_our_group_is_ignored(site: Site) -> None:
    site.distribution("damaged-distribution", {})
    (site.folder / "damaged_distribution-1.0.dist-info" / "entry_points.txt").write_bytes(b"[other]\n\xff\xfe = x\n")

    registry = load()

    assert all(plugin.error is None for plugin in registry.plugins)


def test_a_distribution_without_metadata_is_loaded(site: Site) -> None:
    site.loss("bare-distribution", "made_up", plugin="bare")
    (site.folder / "bare_distribution-1.0.dist-info" / "METADATA").unlink()

    registry = load()

    assert row(registry, "bare").distribution == "unknown"
    assert registry.get("loss", "made_up") is not None


def test_named_plugins_are_loaded_and_no_others(site: Site) -> None:
    site.loss("good-distribution", "made_up", plugin="good")

    registry = load(["good", "torch", ""])

    assert [plugin.name for plugin in registry.plugins] == ["good", "torch"]
    assert registry.names("loss") == ["made_up"]


def test_no_name_loads_no_plugin() -> None:
    registry = load([""])

    assert registry.plugins == []


def test_a_plugin_name_that_no_distribution_has_is_reported_with_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        load(["shape", "vae"])

    (problem,) = caught.value.problems
    assert problem.message == "no installed distribution has a plugin `shape`"
    assert str(problem.where) == "FLUXFLOW_PLUGINS"
    assert problem.nearest == "shapes"


def test_the_environment_selects_the_plugins_of_a_command(command: Callable[..., CompletedProcess[str]]) -> None:
    chosen = command("--list-plugins", FLUXFLOW_PLUGINS="vae, torch")
    none = command("--list-plugins", FLUXFLOW_PLUGINS="")
    wrong = command("--list-plugins", FLUXFLOW_PLUGINS="vea")

    assert "vae " in chosen.stdout
    assert "PatchDiscriminator" not in chosen.stdout
    assert "patch_discriminator" not in chosen.stdout
    assert none.stdout == "PLUGINS\n  none\n"
    assert wrong.returncode == 2
    assert "FLUXFLOW_PLUGINS  no installed distribution has a plugin `vea`\n    nearest    vae" in wrong.stderr


def test_an_unknown_name_is_reported_with_the_plugins_that_are_not_loaded(
    site: Site, prove: Callable[..., RecipePlan]
) -> None:
    site.distribution("bad-distribution", {"bad": "bad_three"}, bad_three="raise ImportError('no kernels')")

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("LABEL", "special"), using=load())

    (problem,) = caught.value.problems
    assert problem.message == "unknown loss `special` in step `only`, update `vae`"
    assert dict(problem.notes)["status"] == (
        "bad, bad-distribution 1.0 is not loaded: "
        "bad_three.py:1  plugin `bad` cannot be imported: ImportError: no kernels"
    )


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise KeyError('x')", 6),
        ("json.loads('{')", 6),  # Python's own code raises, but not by itself
        ("register('first', helper())", 10),
    ],
)
def test_a_failing_hook_is_reported_with_the_line_that_fails(site: Site, body: str, line: int) -> None:
    source = f"""
        import json
        from fluxflow_registry import hookimpl

        @hookimpl
        def fluxflow_register_losses(register):
            {body}


        def helper():
            return 1 / 0
    """
    site.distribution("bad-distribution", {"bad": "bad_line"}, bad_line=source)

    registry = load()

    assert str(row(registry, "bad").error).startswith(
        f"bad_line.py:{line}  plugin `bad` cannot register its components: "
    )


@pytest.mark.parametrize("name", ["vae", "torch", "shapes", "observers"])
@pytest.mark.parametrize("distribution", ["another-distribution", "AA-first"])
def test_a_distribution_with_the_name_of_one_of_our_plugins_does_not_remove_it(
    site: Site, name: str, distribution: str
) -> None:
    ours = load([name])
    site.loss(distribution, "made_up", plugin=name)
    facts = site.folder / f"{distribution.replace('-', '_')}-1.0.dist-info" / "entry_points.txt"
    (site.folder / f"{name}.py").rename(site.folder / "impostor.py")
    facts.write_text(f"[fluxflow]\n{name} = impostor\n")

    registry = load([name])

    assert {kind: registry.names(kind) for kind in registry.components} == {
        kind: ours.names(kind) for kind in ours.components
    }
    errors = {plugin.distribution: plugin.error for plugin in registry.plugins}
    assert errors == {
        "fluxflow-registry": None,
        distribution: (
            f"the plugin name `{name}` belongs to fluxflow-registry\n"
            f"    hint  the entry point of {distribution} needs another name"
        ),
    }
    (stranger,) = [plugin for plugin in registry.plugins if plugin.distribution == distribution]
    assert not registry.has(stranger)


NEEDING = "from fluxflow_registry import a_name_of_a_later_version"


@pytest.mark.parametrize(
    ("requirement", "specifier"),
    [
        ("fluxflow-registry>=9", ">=9"),
        ("fluxflow_registry >= 9", ">=9"),
        ("Fluxflow.Registry[text] (>=9,<10)", "<10,>=9"),
        ("fluxflow-registry<0.0.1", "<0.0.1"),
        ('fluxflow-registry>=9; python_version>"3"', ">=9"),
    ],
)
def test_a_plugin_that_requires_another_version_says_so_instead_of_failing_to_import(
    site: Site, requirement: str, specifier: str
) -> None:
    require(site, requirement, NEEDING)

    bad = row(load(), "needing")

    (problem,) = bad.problems
    assert problem.message == f"plugin `needing` requires fluxflow-registry{specifier}, but {__version__} is installed"
    assert dict(problem.notes)["cause"].startswith("plugin `needing` cannot be imported: ImportError: cannot import")
    assert dict(problem.notes)["command"] == "pip install --upgrade fluxflow-registry needing-distribution"


@pytest.mark.parametrize(
    "requirement",
    ["fluxflow-registry>=0.0.1", "other>=9", 'fluxflow-registry>=9; extra=="later"', "not a requirement!"],
)
def test_a_plugin_whose_requirements_are_met_is_reported_as_what_it_fails_of(site: Site, requirement: str) -> None:
    require(site, requirement, NEEDING)

    assert "cannot be imported: ImportError" in row(load(), "needing").problems[0].message


def test_a_plugin_that_works_although_it_requires_another_version_is_loaded(site: Site) -> None:
    require(site, "fluxflow-registry>=9", LOSS.format(name="made_up"))

    registry = load()

    assert row(registry, "needing").error is None
    assert registry.get("loss", "made_up") is not None


def require(site: Site, requirement: str, source: str) -> None:
    site.distribution("needing-distribution", {"needing": "needing_module"}, needing_module=source)
    with (site.folder / "needing_distribution-1.0.dist-info" / "METADATA").open("a") as metadata:
        metadata.write(f"Requires-Dist: {requirement}\n")


TWO_VALUES = """
    from typing import ClassVar

    from attrs import frozen
    from fluxflow_registry import hookimpl


    def contested_value(image):
        return image


    def needs_it(contested_value):
        return contested_value.mean()


    @frozen
    class Watching:
        default: ClassVar[bool] = True


    @hookimpl
    def fluxflow_register_values(register):
        register("contested_value", contested_value)


    @hookimpl
    def fluxflow_register_losses(register):
        register("needs_it_{name}", needs_it)


    @hookimpl
    def fluxflow_register_observers(register):
        {observer}
"""


@pytest.fixture
def two_values(site: Site) -> Callable[..., Registry]:
    """The registry with two distributions that register the same value, and perhaps the same observer."""

    def registry(observer: str = "pass") -> Registry:
        for name in ("first", "second"):
            source = TWO_VALUES.format(name=name, observer=observer)
            site.distribution(f"{name}-distribution", {name: f"module_{name}"}, **{f"module_{name}": source})
        return load()

    return registry


def test_a_value_that_two_plugins_register_is_reported_with_both(
    two_values: Callable[..., Registry], prove: Callable[..., RecipePlan]
) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("LABEL", "needs_it_first"), using=two_values())

    (problem,) = caught.value.problems
    assert problem.code == "duplicate-name"
    assert problem.message.endswith(
        "requests `contested_value`, which is registered by two plugins: remove one of them"
    )
    assert [text for label, text in problem.notes if label == "defined in"][-2:] == [
        "module_first.py:7   (first, first-distribution 1.0)",
        "module_second.py:7   (second, second-distribution 1.0)",
    ]


def test_an_observer_of_every_run_that_two_plugins_register_is_reported_and_can_be_removed(
    two_values: Callable[..., Registry], prove: Callable[..., RecipePlan]
) -> None:
    registry = two_values('register("watching", Watching)')

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("LABEL", "mse"), using=registry)
    prove(RECIPE.replace("LABEL", "mse"), "observers.watching=false", using=registry)

    (problem,) = caught.value.problems
    assert problem.message == ("observer `watching`, of every run, is registered by two plugins: remove one of them")


def test_a_name_that_two_plugins_register_is_described_with_both(two_values: Callable[..., Registry]) -> None:
    with pytest.raises(RecipeError) as caught:
        describe(two_values(), "contested_value")

    (problem,) = caught.value.problems
    assert problem.message == "value `contested_value` is registered by two plugins: remove one of them"
