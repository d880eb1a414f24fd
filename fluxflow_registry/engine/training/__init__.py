"""A step being trained: updates, losses, metrics, the state they keep."""
