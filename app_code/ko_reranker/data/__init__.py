"""Training records: what they look like, how they stream in and out, and how they are split."""
