"""What both datasets share: their options, aspect buckets, batches."""
