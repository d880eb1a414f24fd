"""Shards on a web server."""
