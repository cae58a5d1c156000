"""Augmentation of training clips: waveform effects, spectrogram masks, mixup and CutMix."""
