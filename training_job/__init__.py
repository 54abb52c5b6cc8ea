"""What runs in SageMaker jobs: train, mine, evaluate."""
