"""Classification of files, folders and long recordings with a checkpoint. Knows nothing of training."""
