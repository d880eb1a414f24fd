"""The command `fluxflow-generate`."""
