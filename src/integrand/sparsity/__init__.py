"""Activation sparsity: measured on any model, induced in training, turned into decode speed."""

from integrand.sparsity.accelerate import Accelerated, accelerate
from integrand.sparsity.feed_forward import FeedForward, Matrix, feed_forwards

__all__ = ["Accelerated", "FeedForward", "Matrix", "accelerate", "feed_forwards"]
