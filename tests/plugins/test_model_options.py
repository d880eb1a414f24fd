"""Every option of every model reaches its network."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import attrs
import pytest

import fluxflow_flow.transformer
import fluxflow_flow.unet
import fluxflow_gan.networks
import fluxflow_text.networks
import fluxflow_vae.networks
from fluxflow_flow.models import FlowTransformerBuilder, UnetBuilder
from fluxflow_gan.models import PatchDiscriminatorBuilder
from fluxflow_text.models import TextTransformerBuilder
from fluxflow_vae.models import CompressorBuilder, ExpanderBuilder

BUILDERS = [
    (CompressorBuilder, fluxflow_vae.networks, "Compressor"),
    (ExpanderBuilder, fluxflow_vae.networks, "Expander"),
    (PatchDiscriminatorBuilder, fluxflow_gan.networks, "PatchDiscriminator"),
    (TextTransformerBuilder, fluxflow_text.networks, "TextTransformer"),
    (FlowTransformerBuilder, fluxflow_flow.transformer, "FlowTransformer"),
    (UnetBuilder, fluxflow_flow.unet, "Unet"),
]


@pytest.mark.parametrize(("builder", "module", "name"), BUILDERS)
def test_a_builder_passes_all_of_its_options_to_the_network(builder: Any, module: Any, name: str) -> None:
    options = attrs.asdict(builder())

    with patch.object(module, name) as network:
        builder()()

    network.assert_called_once_with(**options)


@pytest.mark.parametrize(("builder", "module", "name"), BUILDERS)
def test_the_defaults_of_a_network_are_those_of_its_builder(builder: Any, module: Any, name: str) -> None:
    built, default = builder()(), getattr(module, name)()

    assert str(built) == str(default)
