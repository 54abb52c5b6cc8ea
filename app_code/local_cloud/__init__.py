"""The local cloud: the synthesised AWS templates, deployed unchanged on this machine.

MiniStack answers the AWS APIs on 127.0.0.1; :mod:`local_cloud.sagemaker` adds SageMaker, whose jobs and endpoints are
real processes; :mod:`local_cloud.extensions` adds what else the pipeline relies on. :mod:`local_cloud.cloud`
starts and stops the whole from Python.
"""
