"""The commands of the `ko-reranker` program, one module per area; `ko_reranker.cli` assembles them."""
