"""Metrics, confidence intervals, and the files of a run. Imports no torch."""
