"""Serving: how an agent reaches the model."""
