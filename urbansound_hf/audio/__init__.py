"""Sound as samples: reading, resampling, windows, filters, spectrograms. Imports neither torch nor transformers."""
