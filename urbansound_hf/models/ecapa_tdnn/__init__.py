"""ECAPA-TDNN: the model, and the conversion of SpeechBrain checkpoints."""
