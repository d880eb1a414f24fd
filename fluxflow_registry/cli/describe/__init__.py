"""`--describe`: one component in full."""
