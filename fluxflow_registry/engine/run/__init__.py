"""A run: the loop, its folder, its checkpoints, what observers see of it."""
