"""A recipe against a registry: every problem, or the plan."""
