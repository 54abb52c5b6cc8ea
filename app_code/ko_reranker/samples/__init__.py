"""What ships with the package for the demonstration: sample records, their Korean, a small tokenizer, a tiny model."""
