"""`python -m fluxflow_registry` is `fluxflow-run`."""

from __future__ import annotations

from fluxflow_registry.cli.main import run

if __name__ == "__main__":
    run()
