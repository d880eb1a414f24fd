"""`--schema`: the recipe language as a JSON schema."""
