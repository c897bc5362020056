"""Search for activations in spaces of gradients and functions."""
