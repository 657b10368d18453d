"""Sweeps: sets of experiments with shared and varied settings, and the order in which they may run."""
