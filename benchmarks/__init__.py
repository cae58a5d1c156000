"""Measurements behind the documents: speed against the stock library, accuracy of models and recipes, the effects."""
