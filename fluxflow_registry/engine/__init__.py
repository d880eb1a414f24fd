"""Training a plan with torch: data, models, values and gradients, the run and what explains it."""
