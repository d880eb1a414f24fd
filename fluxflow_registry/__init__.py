"""A declarative plugin framework for training VAE + GAN + flow text-to-image models.

Everything that a component needs is imported from here. A plugin that adds a command, or another form of recipe, also
imports from `fluxflow_registry.commands`.
"""

from fluxflow_registry.contracts import (
    Better,
    Draw,
    Ending,
    Field,
    Gradients,
    History,
    NoisePath,
    Position,
    Source,
    Stateful,
    Summary,
    VelocityField,
    higher_is_better,
)
from fluxflow_registry.errors import (
    Choices,
    DataError,
    Flag,
    FluxflowError,
    Location,
    Place,
    PluginError,
    Problem,
    RecipeError,
    RunError,
    SampleError,
    TrainingError,
    Variable,
    counted,
    nearest,
    one_line,
    printable,
    to_json,
)
from fluxflow_registry.hookspecs import Register, hookimpl
from fluxflow_registry.lifecycle import RunView, StepView
from fluxflow_registry.state.disk import write_file

__version__ = "0.1.0"

__all__ = [
    "Better",
    "Choices",
    "DataError",
    "Draw",
    "Ending",
    "Field",
    "Flag",
    "FluxflowError",
    "Gradients",
    "History",
    "Location",
    "NoisePath",
    "Place",
    "PluginError",
    "Position",
    "Problem",
    "RecipeError",
    "Register",
    "RunError",
    "RunView",
    "SampleError",
    "Source",
    "Stateful",
    "StepView",
    "Summary",
    "TrainingError",
    "Variable",
    "VelocityField",
    "counted",
    "higher_is_better",
    "hookimpl",
    "nearest",
    "one_line",
    "printable",
    "to_json",
    "write_file",
]
