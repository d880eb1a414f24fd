"""Observer `console`: where the run is, live on a terminal, as lines elsewhere."""
