"""What the stage's settings, its state machine, its Lambdas and its jobs have in common. Standard library only."""
