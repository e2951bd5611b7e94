"""Episodes one at a time, an engine left serving, and a talk with a checkpoint: no training."""
