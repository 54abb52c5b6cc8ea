"""What the engine is compared with: scorers behind one interface, each run by `worker` in its own process and environment."""
