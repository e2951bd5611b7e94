"""Judges: ready correctness judges, penalties, and how they add up to a reward of named parts."""
