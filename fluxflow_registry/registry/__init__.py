"""Components by kind and name: found, verified, kept with their provenance."""
