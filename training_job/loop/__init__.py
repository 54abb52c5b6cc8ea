"""What the training loop of `training_job.train` is made of, one module a thing."""
