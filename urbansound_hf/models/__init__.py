"""Model families, loading and saving of checkpoints, and ways to adapt a pretrained model."""
