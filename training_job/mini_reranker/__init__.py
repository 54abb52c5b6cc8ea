"""The mini reranker: a small Korean cross-encoder made from open data on a laptop; docs/mini_reranker.md tells how and why."""
