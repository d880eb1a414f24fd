"""Images: from bytes to pixels."""
