"""A FluxFlow configuration as a recipe."""
