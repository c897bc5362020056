"""Activation sparsity: measured on any model, induced in training, turned into decode speed."""

from integrand.sparsity.feed_forward import FeedForward, Matrix, feed_forwards

__all__ = ["FeedForward", "Matrix", "feed_forwards"]
