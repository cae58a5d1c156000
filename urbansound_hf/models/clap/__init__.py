"""CLAP audio encoders: classification by fine-tuning or zero-shot."""
