"""The reranker in the box: a small Korean cross-encoder made from open data on a laptop; docs/box.md tells how and why."""
