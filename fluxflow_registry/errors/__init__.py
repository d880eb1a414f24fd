"""Problems: what is wrong, where, who requested it, what is available, and the nearest name."""

from fluxflow_registry.errors.names import LISTED, Choices, nearest
from fluxflow_registry.errors.place import Default, Flag, Location, Place, Variable
from fluxflow_registry.errors.problem import (
    LABELS,
    DataError,
    FluxflowError,
    Note,
    PluginError,
    Problem,
    RecipeError,
    RunError,
    SampleError,
    TrainingError,
    unique,
)
from fluxflow_registry.errors.text import counted, one_line, printable, to_json

__all__ = [
    "LABELS",
    "LISTED",
    "Choices",
    "DataError",
    "Default",
    "Flag",
    "FluxflowError",
    "Location",
    "Note",
    "Place",
    "PluginError",
    "Problem",
    "RecipeError",
    "RunError",
    "SampleError",
    "TrainingError",
    "Variable",
    "counted",
    "nearest",
    "one_line",
    "printable",
    "to_json",
    "unique",
]
