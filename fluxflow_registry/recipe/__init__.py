"""The recipe language: from a YAML file to frozen classes, with a location for every problem."""
