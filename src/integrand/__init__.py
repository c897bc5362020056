"""Activation functions designed by their gradient."""
