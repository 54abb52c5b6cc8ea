"""What happens to a text before a model reads it: normalising, unescaping, cutting into pieces. Standard library only."""
