"""Plugins of installed distributions: each is loaded on its own, and what fails says so in its own row."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from fluxflow_registry.errors import PluginError, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Plugin, Registry, load

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
    ("source", "told"),
    [
        ("raise ImportError('no module named kernels')", "ImportError: no module named kernels"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("def broken(:\n", "SyntaxError: invalid syntax (bad_one.py, line 1)"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("raise AssertionError", "AssertionError"),
        ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_a_row_and_harms_nobody(site: Site, source: str, told: str) -> None:
    site.distribution("bad-distribution", {"bad": "bad_one"}, version="2.5", bad_one=source)
    site.loss("good-distribution", "made_up", plugin="good")

    registry = load()

    assert row(registry, "bad") == Plugin("bad", "bad-distribution", "2.5", "bad_one", told)
    assert row(registry, "good").error is None
    assert {"made_up", "mse", "l1"} <= set(registry.names("loss"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
        ("register('nothing', 5)", "loss `nothing` is neither a function nor a class, but int"),
        ("register('object', object())", "loss `object` is neither a function nor a class, but object"),
        ("register('a b', lambda image: image)", "`a b` is no name for a loss: letters, digits and _"),
        ("register(7, lambda image: image)", "`7` is no name for a loss"),
        ("register('builtin', print)", "`*args` cannot be filled"),
    ],
)
def test_a_plugin_that_fails_to_register_is_a_row_and_harms_nobody(site: Site, body: str, told: str) -> None:
    source = f"""
        from fluxflow_registry import hookimpl

        @hookimpl
        def fluxflow_register_losses(register):
            register("first", lambda image: image)
            {body}
    """
    site.distribution("bad-distribution", {"bad": "bad_two"}, bad_two=source)

    registry = load()

    assert told in str(row(registry, "bad").error)
    assert "at 0x" not in str(row(registry, "bad").error)
    assert registry.get("loss", "first") is None
    assert registry.get("loss", "mse") is not None


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("def fluxflow_register_loses(register):", "unknown hook `fluxflow_register_loses` in plugin `bad`"),
        ("def fluxflow_register_losses(registr):", "hook `fluxflow_register_losses` of plugin `bad` takes `register`"),
        ("def fluxflow_register_losses(register, more):", "def fluxflow_register_losses(register, more)"),
        ("def fluxflow_register_losses():", "def fluxflow_register_losses()"),
    ],
)
def test_a_wrong_hook_is_told_with_its_place(site: Site, hook: str, told: str) -> None:
    source = f"""
        from fluxflow_registry import hookimpl

        @hookimpl
        {hook}
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_hook"}, bad_hook=source)

    registry = load()

    error = str(row(registry, "bad").error)
    assert told in error
    assert "bad_hook.py:3" in error


def test_a_misspelt_hook_names_the_one_that_was_meant(site: Site) -> None:
    source = """
        from fluxflow_registry import hookimpl

        @hookimpl
        def fluxflow_register_optimisers(register):
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_hook"}, bad_hook=source)

    registry = load()

    assert "nearest  fluxflow_register_optimizers" in str(row(registry, "bad").error)


def test_a_hook_that_is_not_marked_is_told_with_its_place(site: Site) -> None:
    source = """
        def fluxflow_register_losses(register):
            pass
    """
    site.distribution("bad-distribution", {"bad": "bad_unmarked"}, bad_unmarked=source)

    registry = load()

    error = str(row(registry, "bad").error)
    assert error == (
        "bad_unmarked.py:1  `fluxflow_register_losses` of plugin `bad` is not marked: put `@hookimpl` above it"
    )


def test_a_generator_as_a_hook_is_a_row_and_harms_nobody(site: Site) -> None:
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


def test_a_module_without_hooks_is_told_which_there_are(site: Site) -> None:
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

    told = {plugin.distribution: plugin.error for plugin in registry.plugins if plugin.name == "twin"}
    assert told == {
        "first-distribution": "the plugin name `twin` is also claimed by second-distribution",
        "second-distribution": "the plugin name `twin` is also claimed by first-distribution",
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
        "loss `clashing` is claimed by first, first-distribution 1.0 (clash_a.py:4) "
        "and second, second-distribution 1.0 (clash_b.py:4)"
    )
    (problem,) = caught.value.problems
    assert problem.message == (
        "loss `clashing` in step `only`, update `vae` is claimed by two plugins; remove one of them"
    )
    assert str(problem.where).endswith("r.yaml:12:11")
    assert dict(problem.notes)["claimed by"] == "second, second-distribution 1.0 at clash_b.py:4"
    for label in ("own_a", "own_b", "mse"):
        prove(RECIPE.replace("LABEL", label), using=registry)


def test_a_damaged_entry_points_file_is_a_row_and_harms_nobody(site: Site) -> None:
    site.distribution("damaged-distribution", {}, version="0.3")
    (site.folder / "damaged_distribution-0.3.dist-info" / "entry_points.txt").write_text("[fluxflow]\nno sign\n")

    registry = load()

    assert row(registry, "damaged-distribution").version == "0.3"
    assert "TypeError" in str(row(registry, "damaged-distribution").error)
    assert registry.get("loss", "mse") is not None


def test_a_damaged_entry_points_file_of_somebody_else_is_nothing_to_us(site: Site) -> None:
    site.distribution("damaged-distribution", {})
    (site.folder / "damaged_distribution-1.0.dist-info" / "entry_points.txt").write_bytes(b"[other]\n\xff\xfe = x\n")

    registry = load()

    assert all(plugin.error is None for plugin in registry.plugins)


def test_a_distribution_without_metadata_is_loaded_all_the_same(site: Site) -> None:
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


def test_a_plugin_name_that_nobody_has_is_told_with_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        load(["shape", "vae"])

    (problem,) = caught.value.problems
    assert problem.message == "no installed distribution has a plugin `shape`"
    assert str(problem.where) == "FLUXFLOW_PLUGINS"
    assert dict(problem.notes)["nearest"] == "shapes"


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


def test_a_recipe_that_misses_a_broken_plugin_is_told_that_it_is_not_loaded(
    site: Site, prove: Callable[..., RecipePlan]
) -> None:
    site.distribution("bad-distribution", {"bad": "bad_three"}, bad_three="raise ImportError('no kernels')")

    with pytest.raises(RecipeError) as caught:
        prove(RECIPE.replace("LABEL", "special"), using=load())

    (problem,) = caught.value.problems
    assert problem.message == "unknown loss `special` in step `only`, update `vae`"
    assert dict(problem.notes)["not loaded"] == "bad, bad-distribution 1.0: ImportError: no kernels"
