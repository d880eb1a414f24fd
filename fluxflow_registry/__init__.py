"""A declarative plugin framework for training VAE + GAN + flow text-to-image models.

Everything that a component needs is imported from here. A plugin that adds a command, or another form of recipe, also
imports from `fluxflow_registry.commands`.
"""

from fluxflow_registry.contracts import (
    Balancer,
    Better,
    ComputedValue,
    Dataset,
    Direction,
    Draw,
    Ending,
    Field,
    Gradients,
    History,
    Loss,
    Metric,
    Model,
    NoisePath,
    Observer,
    Optimizer,
    Position,
    RecentMeans,
    RunView,
    Sampler,
    Scheduler,
    Source,
    Stateful,
    StepView,
    Summary,
    Transition,
    Value,
    VelocityField,
    Weigher,
    higher_is_better,
)
from fluxflow_registry.engine.images import contact_sheet, to_pixels
from fluxflow_registry.errors import (
    Choices,
    DataError,
    Default,
    Flag,
    FluxflowError,
    Location,
    Notice,
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
from fluxflow_registry.redaction import redact
from fluxflow_registry.state.bookkeeping import read_back, read_back_lines
from fluxflow_registry.state.disk import append_file, open_regular, read_file, sync_file, write_file

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "Balancer", "Better", "Choices", "ComputedValue", "DataError", "Dataset", "Default", "Direction", "Draw", "Ending",
    "Field", "Flag", "FluxflowError", "Gradients", "History", "Location", "Loss", "Metric", "Model", "NoisePath",
    "Notice", "Observer", "Optimizer", "Place", "PluginError", "Position", "Problem", "RecentMeans", "RecipeError",
    "Register", "RunError", "RunView", "SampleError", "Sampler", "Scheduler", "Source", "Stateful", "StepView",
    "Summary", "TrainingError", "Transition", "Value", "Variable", "VelocityField", "Weigher", "append_file",
    "contact_sheet", "counted", "higher_is_better", "hookimpl", "nearest", "one_line", "open_regular", "printable",
    "read_back", "read_back_lines", "read_file", "redact", "sync_file", "to_json", "to_pixels", "write_file",
]
