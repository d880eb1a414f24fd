"""A FluxFlow configuration: its keys, how a file is read, and the rules that it must obey."""
