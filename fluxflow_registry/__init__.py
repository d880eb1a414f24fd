"""A declarative plugin framework for training VAE + GAN + flow text-to-image models."""

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
from fluxflow_registry.errors import DataError, FluxflowError, Problem, SampleError, counted, to_json
from fluxflow_registry.hookspecs import Register, hookimpl

__version__ = "0.1.0"

__all__ = [
    "Better",
    "DataError",
    "Draw",
    "Ending",
    "Field",
    "FluxflowError",
    "Gradients",
    "History",
    "NoisePath",
    "Position",
    "Problem",
    "Register",
    "SampleError",
    "Source",
    "Stateful",
    "Summary",
    "VelocityField",
    "counted",
    "higher_is_better",
    "hookimpl",
    "to_json",
]
