"""Measurements behind the documents: speed against the stock way, accuracy of models and recipes, the effects."""
