"""How an agent reaches the model."""
