"""Activation sparsity: measured on any model, induced in training, turned into decode speed."""

from integrand.sparsity.analysis import Analysis, Layer, analyze
from integrand.sparsity.feed_forward import FeedForward, Matrix, feed_forwards
from integrand.sparsity.masking import masking

__all__ = [
    "Analysis",
    "FeedForward",
    "Layer",
    "Matrix",
    "analyze",
    "feed_forwards",
    "masking",
]
