"""Labelled sounds: data sets, metadata, splits, the leak report. Imports neither torch nor transformers."""
