"""The flags of train.py: their schema, their checks, and the parser of config files and command lines."""
