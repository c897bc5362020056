"""Language models to put activations into."""

from integrand.models.decoder import Decoder, DecoderConfig, Llama3Rope
from integrand.models.width import plain_width, relative_difference

__all__ = ["Decoder", "DecoderConfig", "Llama3Rope", "plain_width", "relative_difference"]
