"""Training: one run, cross-validation, hyper-parameter search."""
