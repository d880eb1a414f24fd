"""What plugins of the first release import can still be imported."""

from __future__ import annotations

import importlib

import pytest

IMPORTED = {
    "fluxflow_registry": """Better DataError Draw Ending Field FluxflowError Gradients History NoisePath Position
        Problem Register SampleError Source Stateful Summary VelocityField counted higher_is_better hookimpl""",
    "fluxflow_registry.contracts": """Better CONTEXT Dataset Directed Direction Draw Ending Field Gradients History
        KINDS Kind Naming NoisePath Position Sampler Source Stateful Summary VelocityField higher_is_better variants""",
    "fluxflow_registry.errors": "DataError FluxflowError PluginError Problem RecipeError RunError SampleError counted",
    "fluxflow_registry.hookspecs": "Register hookimpl hookspec",
    "fluxflow_registry.lifecycle": "Lifecycle RunView StepView",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in IMPORTED for name in IMPORTED[module].split()]
)
def test_a_name_that_plugins_of_the_first_release_import_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)
