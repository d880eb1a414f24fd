"""`--validate` and `--explain`: what a recipe will do."""
