"""Hyperparameter sweeps with Ray Tune: search space, trials, selection, and the sweep's report."""
