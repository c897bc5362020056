"""Language models, the checkpoints that exist, and the way into any other model."""

from integrand.models.checkpoints import (
    XieluParameters,
    read_parameters,
    to_tensors,
    write_parameters,
)
from integrand.models.decoder import Decoder, DecoderConfig, Llama3Rope
from integrand.models.export import export
from integrand.models.inspection import Inspection, inspect_checkpoint
from integrand.models.missing import new_activations
from integrand.models.plain import PlainBlock, plain_from_gated
from integrand.models.registered import config_fields, register
from integrand.models.swapping import Site, Swap, swap
from integrand.models.width import plain_width, relative_difference

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Inspection",
    "Llama3Rope",
    "PlainBlock",
    "Site",
    "Swap",
    "XieluParameters",
    "config_fields",
    "export",
    "inspect_checkpoint",
    "new_activations",
    "plain_from_gated",
    "plain_width",
    "read_parameters",
    "register",
    "relative_difference",
    "swap",
    "to_tensors",
    "write_parameters",
]
