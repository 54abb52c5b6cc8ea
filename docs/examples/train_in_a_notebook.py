"""Train on an earlier run's data with another recipe's settings, look at what came out, and put it into the registry.

The cells (# %%) run in VS Code and Jupyter, and the whole as a script. Needs `pip install -e ".[sagemaker]"`, a deployed stage,
and for stage local its variables: eval "$(ko-reranker local env)".

    python docs/examples/train_in_a_notebook.py STAGE RUN
"""

# %% What to train on: a run's name, as `ko-reranker status` lists it
import json
import sys

from ko_reranker import notebook
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

STAGE, RUN = sys.argv[1:3]

# %% The state machine's own training job, with a field of its own; the log is shown until it ends
job = notebook.train(STAGE, RUN, hyperparameters={"epochs": 1}, instance_count=1)
model = job.model_artifacts.s3_model_artifacts.rstrip("/") + "/"  # SageMaker may give it without the slash that a prefix needs

# %% What the training says of itself
stage = Stage.connect(STAGE, Project.find())
bucket, _, prefix = model.removeprefix("s3://").partition("/")
card = json.loads(stage.client("s3").get_object(Bucket=bucket, Key=f"{prefix}run_card.json")["Body"].read())
print(card["recipe"]["name"], card["versions"])

# %% Nothing has judged this model yet. To make it a candidate for release all the same, register it, then approve it:
print(f"ko-reranker models register {model} --no-approve --stage {STAGE}")
