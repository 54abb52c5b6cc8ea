"""Translating a corpus of texts once: what to send, how to send it, what to accept back, and where it is kept."""
