"""Checkpoints, each of which is whole or not there at all."""
