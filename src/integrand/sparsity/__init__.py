"""Activation sparsity: measured on any model, induced in training, turned into decode speed."""

from integrand.sparsity.accelerate import Accelerated, accelerate, undo
from integrand.sparsity.analysis import Analysis, Layer, analyze
from integrand.sparsity.calibration import calibrate
from integrand.sparsity.feed_forward import FeedForward, Matrix, feed_forwards
from integrand.sparsity.fitting import fit
from integrand.sparsity.masking import masking
from integrand.sparsity.penalty import Penalised, Stage, penalise, remove_penalty
from integrand.sparsity.predictors import assess, enabled, load_predictors
from integrand.sparsity.roofline import roofline
from integrand.sparsity.shifted import clipped_shifted_relu, shifted_relu, stable_start
from integrand.sparsity.switching import Stochastic, Switched
from integrand.sparsity.thresholds import applying, load_thresholds, price

__all__ = [
    "Accelerated",
    "Analysis",
    "FeedForward",
    "Layer",
    "Matrix",
    "Penalised",
    "Stage",
    "Stochastic",
    "Switched",
    "accelerate",
    "analyze",
    "applying",
    "assess",
    "calibrate",
    "clipped_shifted_relu",
    "enabled",
    "feed_forwards",
    "fit",
    "load_predictors",
    "load_thresholds",
    "masking",
    "penalise",
    "price",
    "remove_penalty",
    "roofline",
    "shifted_relu",
    "stable_start",
    "undo",
]
