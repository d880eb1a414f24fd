"""The values of one batch, and how gradients flow back through them."""
