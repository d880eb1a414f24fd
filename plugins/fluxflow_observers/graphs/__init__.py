"""Observer `graphs`: charts of everything that a run has logged."""
