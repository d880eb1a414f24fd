"""The recipe language: a YAML file to frozen classes, with a place for every problem."""
