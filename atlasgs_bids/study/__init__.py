"""Experiments with a known truth: simulated slices, methods, scores, tables."""
