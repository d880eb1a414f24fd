"""From names to an ordered plan: what is computed, where gradients flow, what is reused. Pure data."""
