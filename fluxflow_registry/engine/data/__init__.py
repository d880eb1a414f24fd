"""Batches: opened datasets, the order of samples, worker processes."""
