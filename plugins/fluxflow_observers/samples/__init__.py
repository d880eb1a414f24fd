"""Observer `samples`: images, one file each."""
