"""`--inspect-data`: what is in the datasets of a recipe."""
