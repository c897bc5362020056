"""Train small decoders that differ in their activation alone."""

from integrand.train.config import DataConfig, TrainConfig, Variant
from integrand.train.loop import train
from integrand.train.matched import matched
from integrand.train.recipes import Recipe, demo
from integrand.train.runs import export_run, load_run
from integrand.train.schedule import wsd
from integrand.train.tokens import TokenData, prepare

__all__ = [
    "DataConfig",
    "Recipe",
    "TokenData",
    "TrainConfig",
    "Variant",
    "demo",
    "export_run",
    "load_run",
    "matched",
    "prepare",
    "train",
    "wsd",
]
