"""Reinforcement learning for the language model behind an agent, every token exact."""
