"""Building blocks of the stacks, one thing each."""
