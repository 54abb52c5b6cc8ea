"""One stack a lifecycle: data is kept, the pipeline and the endpoint come and go, the API faces clients."""
