"""Reports, model cards and comparisons of runs."""
