"""`--check`: everything about a run that can be proven without training."""
