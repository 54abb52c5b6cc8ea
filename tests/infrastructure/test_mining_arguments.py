"""What the state machine passes to `ko-reranker mine` is what the command takes."""

from __future__ import annotations

import json
import re

import typer

from ko_reranker.commands import jobs


def test_the_mining_options_of_cdk_json_are_options_of_the_command(prod) -> None:
    definition = json.dumps(prod, ensure_ascii=False)
    found = re.search(r"States\.Array\(('--negatives'.*?)\)", definition)
    assert found is not None
    arguments = re.findall(r"'([^']*)'", found.group(1))
    program = typer.Typer()
    program.command()(jobs.mine)
    command = typer.main.get_command(program)
    parsed = command.make_context("mine", list(arguments), resilient_parsing=False).params
    assert (parsed["negatives"], parsed["rank_from"], parsed["rank_to"], parsed["max_overlap"]) == (7, 3, 100, 0.6)
    assert parsed["teacher"] is None
