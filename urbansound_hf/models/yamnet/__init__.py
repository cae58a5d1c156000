"""YAMNet: the model, and the conversion of its published weights."""
