"""Stacks of one contrast as one observation of the same amplitudes, each with its own gain and noise."""
