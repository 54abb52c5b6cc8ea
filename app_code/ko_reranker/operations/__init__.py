"""What people do with a deployed stage: retrain, follow, approve, ask, look."""
