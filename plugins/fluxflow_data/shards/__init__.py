"""Dataset `webdataset`: images with captions in tar files, read by position."""
