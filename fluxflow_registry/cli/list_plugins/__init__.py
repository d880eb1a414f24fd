"""`--list-plugins`: every plugin and every component."""
