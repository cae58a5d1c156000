"""Figures of sounds, data sets, runs and embeddings."""
