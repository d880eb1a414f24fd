"""`--replay`: a batch that was not finite, repeated."""
