"""Models: built, averaged, frozen, compiled, checkpointed."""
