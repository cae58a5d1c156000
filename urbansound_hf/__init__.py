"""urbansound-hf: transfer learning on sound, measured honestly."""

__version__ = "0.1.0"
