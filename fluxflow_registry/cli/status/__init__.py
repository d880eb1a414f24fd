"""`--status`: the state of a run, read from its folder."""
