"""Uploads to the Hugging Face Hub: checkpoints, data sets, Spaces."""
