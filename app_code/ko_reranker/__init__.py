"""ko-reranker: a Korean reranker in your own AWS account."""

__version__ = "0.1.0"
