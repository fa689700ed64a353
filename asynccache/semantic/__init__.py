"""Answers by meaning: embedders, vector indexes, and the decision whether a stored answer may serve."""
