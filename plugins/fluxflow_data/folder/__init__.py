"""Dataset `folder`: image files of a local folder, each with a caption."""
