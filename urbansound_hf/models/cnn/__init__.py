"""The CNN families: the architecture of the tutorial and a residual network."""
