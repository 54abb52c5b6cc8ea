"""The local cloud: the synthesised AWS templates, deployed unchanged on this machine.

MiniStack answers the AWS APIs on 127.0.0.1; :mod:`ko_reranker.local.sagemaker` adds SageMaker, whose jobs and endpoints are
real processes; :mod:`ko_reranker.local.extensions` adds what else the pipeline relies on. :mod:`ko_reranker.local.cloud`
starts and stops the whole from Python.
"""
