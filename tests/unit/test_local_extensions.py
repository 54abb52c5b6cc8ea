"""The local cloud's extensions of MiniStack, in this process: no server, no network."""

# ruff: noqa: SLF001 - MiniStack has public names for its services alone, and these change what is below them.
from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ministack")

from ministack import app
from ministack.services import iam as iam_service
from ministack.services import stepfunctions as sfn

from local_cloud import extensions
from local_cloud.extensions import (
    api_gateway,
    asl_paths,
    distributed_map,
    iam,
    patching,
    s3,
    step_functions,
    translate,
)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    extensions.install(app)


class TestPin:
    def test_ministack_is_the_version_the_extensions_were_written_against(self):
        assert version("ministack") == extensions.MINISTACK_VERSION == "1.5.33"

    @pytest.mark.parametrize(("module", "name"), extensions.PATCHED)
    def test_every_patched_name_still_exists(self, module: str, name: str):
        assert hasattr(importlib.import_module(module), name)

    def test_every_declared_name_is_patched_and_a_second_install_changes_nothing(self):
        before = sfn._execute_task
        assert extensions.install(app).done == set(extensions.PATCHED)
        assert sfn._execute_task is before

    def test_a_missing_name_is_named(self):
        with pytest.raises(extensions.MiniStackMismatch, match=r"ministack\.app\.nothing_like_it"):
            patching.verify([("ministack.app", "nothing_like_it")])

    def test_another_version_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(patching, "version", lambda _: "2.0.0")
        with pytest.raises(extensions.MiniStackMismatch, match=r"2\.0\.0 is installed.*pip install ministack==1\.5\.33"):
            patching.verify([])

    def test_an_undeclared_name_cannot_be_patched(self):
        with pytest.raises(KeyError, match="not declared"):
            patching.Patcher([]).replace(app, "AUTH", lambda original: original)


class TestPaths:
    DATA = {"a": {"b": [1, {"c": None}]}, "list": [{"x": 1, "y": "p"}, {"x": 2, "y": "q"}]}

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("$", DATA),
            ("$.a.b[0]", 1),
            ("$.a.b[1].c", None),
            ("$['a']['b'][0]", 1),
            ("$.list[*].x", [1, 2]),
            ("$.list[0:1].x", [1]),
            ("$.list[?(@.y=='q')].x", [2]),
            ("$.list[?(@.y=='z')].x", []),
        ],
    )
    def test_a_path_finds(self, path: str, value: Any):
        assert asl_paths.resolve_path(path, self.DATA) == value

    @pytest.mark.parametrize("path", ["$.nothing", "$.a.b[7]", "$.a.b.c", "$.list[0].x.y"])
    def test_a_definite_path_that_finds_nothing_ends_the_execution(self, path: str):
        with pytest.raises(sfn._ExecutionError) as error:
            asl_paths.resolve_path(path, self.DATA)
        assert error.value.error == "States.Runtime"
        assert path in error.value.cause

    def test_redrive_count_is_in_the_context(self):
        assert sfn._resolve_ctx_path("$$.Execution.RedriveCount", {"Execution": {"Name": "n"}}) == 0

    def test_nested_lists_are_filled_in(self):
        template = {"rows": [[{"v.$": "$.a.b[0]"}, "text"], {"w.$": "$$.Execution.Name"}]}
        filled = sfn._resolve_params_obj(template, self.DATA, {"Execution": {"Name": "n"}})
        assert filled == {"rows": [[{"v": 1}, "text"], {"w": "n"}]}

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ({"Variable": "$.a.b[1].c", "IsPresent": True}, True),
            ({"Variable": "$.a.z", "IsPresent": True}, False),
            ({"Variable": "$.a.z", "IsPresent": False}, True),
            ({"And": [{"Variable": "$.z", "IsPresent": True}, {"Variable": "$.z", "NumericEquals": 1}]}, False),
            ({"Not": {"Variable": "$.a.b[0]", "NumericEquals": 1}}, False),
        ],
    )
    def test_choice_rules(self, rule: dict, expected: bool):
        assert sfn._evaluate_rule(rule, self.DATA, {}) is expected

    def test_a_choice_on_a_missing_variable_fails(self):
        with pytest.raises(sfn._ExecutionError, match="Invalid path"):
            sfn._evaluate_rule({"Variable": "$.z", "NumericEquals": 1}, self.DATA, {})

    def test_states_all_does_not_catch_runtime_errors(self):
        assert not sfn._error_matches(["States.ALL"], "States.Runtime")
        assert sfn._error_matches(["States.Runtime"], "States.Runtime")
        assert sfn._error_matches(["States.ALL"], "Poison")


class TestBatches:
    def test_items_and_bytes_limit_a_batch(self):
        by_items = distributed_map.batches([1, 2, 3, 4, 5], {"MaxItemsPerBatch": 2}, {}, {})
        assert [(batch["Items"], count) for batch, count in by_items] == [([1, 2], 2), ([3, 4], 2), ([5], 1)]
        texts = ["a" * 400] * 5
        by_bytes = distributed_map.batches(texts, {"MaxInputBytesPerBatch": 1000}, {}, {})
        assert [count for _, count in by_bytes] == [2, 2, 1]
        assert all(len(json.dumps(batch)) <= 1000 for batch, _ in by_bytes)

    def test_batch_input_goes_with_each_batch(self):
        batches = distributed_map.batches([1], {"MaxItemsPerBatch": 9, "BatchInput": {"run.$": "$.run"}}, {"run": "r"}, {})
        assert batches == [({"BatchInput": {"run": "r"}, "Items": [1]}, 1)]

    def test_no_items_make_no_batches(self):
        assert distributed_map.batches([], {"MaxItemsPerBatch": 2}, {}, {}) == []


class TestNames:
    @pytest.mark.parametrize(
        ("service", "code", "name"),
        [
            ("ssm", "ParameterNotFound", "ParameterNotFoundException"),
            ("sagemaker", "ResourceNotFound", "ResourceNotFoundException"),
            ("sagemaker", "ValidationException", None),
            ("dynamodb", "ConditionalCheckFailedException", "ConditionalCheckFailedException"),
        ],
    )
    def test_errors_are_named_as_in_java(self, service: str, code: str, name: str | None):
        assert step_functions.java_exception(service, code) == name

    @pytest.mark.parametrize(
        ("member", "name"),
        [
            ("DBClusterArn", "DbClusterArn"),
            ("VolumeSizeInGB", "VolumeSizeInGB"),
            ("KMSMasterKeyID", "KmsMasterKeyID"),
            ("S3Uri", "S3Uri"),
            ("ETag", "ETag"),
            ("ARN", "Arn"),
            ("nextToken", "NextToken"),
        ],
    )
    def test_members_are_named_as_in_java(self, member: str, name: str):
        assert step_functions.java_member(member) == name


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A role that may do what its inline policy says."""
    monkeypatch.setattr(app, "AUTH", True)
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/runs/*"},
            {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/runs/secret"},
            {
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": "*",
                "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            },
        ],
    }
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    arn = "arn:aws:iam::000000000000:role/unit"
    iam_service._roles["unit"] = {
        "RoleName": "unit",
        "Arn": arn,
        "AssumeRolePolicyDocument": json.dumps(trust),
        "InlinePolicies": {"p": json.dumps(document)},
        "AttachedPolicies": [],
    }
    yield arn
    del iam_service._roles["unit"]


class TestRoles:
    def test_allowed_denied_and_not_mentioned(self, role: str):
        assert iam.denial(role, "s3:GetObject", "arn:aws:s3:::data/runs/1") is None
        explicit = iam.denial(role, "s3:GetObject", "arn:aws:s3:::data/runs/secret")
        assert explicit is not None and explicit.explicit
        implicit = iam.denial(role, "s3:PutObject", "arn:aws:s3:::data/runs/1", session="job")
        assert str(implicit) == (
            "User: arn:aws:sts::000000000000:assumed-role/unit/job is not authorized to perform: s3:PutObject on resource: "
            "arn:aws:s3:::data/runs/1 because no identity-based policy allows the s3:PutObject action"
        )

    def test_conditions_count(self, role: str):
        other = "arn:aws:iam::000000000000:role/other"
        assert iam.denial(role, "iam:PassRole", other, {"iam:PassedToService": "sagemaker.amazonaws.com"}) is None
        assert iam.denial(role, "iam:PassRole", other, {"iam:PassedToService": "lambda.amazonaws.com"}) is not None

    def test_trust(self, role: str):
        assert iam.trusts(role, "states.amazonaws.com")
        assert not iam.trusts(role, "events.amazonaws.com")
        assert not iam.trusts("arn:aws:iam::000000000000:role/absent", "states.amazonaws.com")

    def test_a_resource_policy_names_the_service_and_the_source(self, role: str):
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": "*",
            "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:events:*:*:rule/mine"}},
        }
        question = ({"Statement": [statement]}, "events.amazonaws.com", "sns:Publish", "arn:aws:sns:r:1:t")
        assert not iam.service_denial(*question, "arn:aws:events:r:1:rule/mine")
        assert iam.service_denial(*question, "arn:aws:events:r:1:rule/other")

    def test_without_evaluation_everything_is_allowed(self, role: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(app, "AUTH", False)
        assert iam.denial(role, "s3:PutObject", "*") is None


@pytest.mark.parametrize(
    ("action", "parameters", "resources"),
    [
        ("CreateTrainingJob", {"TrainingJobName": "j"}, ["training-job/j"]),
        ("DescribeEndpointConfig", {"EndpointConfigName": "c"}, ["endpoint-config/c"]),
        ("UpdateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c"}, ["endpoint/e", "endpoint-config/c"]),
        ("UpdateEndpointWeightsAndCapacities", {"EndpointName": "e"}, ["endpoint/e"]),
        ("CreateModel", {"ModelName": "m"}, ["model/m"]),
        ("CreateModelPackage", {"ModelPackageGroupName": "g"}, ["model-package/g/1", "model-package-group/g"]),
        ("DescribeModelPackage", {"ModelPackageName": "arn:aws:sagemaker:r:1:model-package/g/3"}, ["model-package/g/3"]),
        ("UpdateModelPackage", {"ModelPackageArn": "arn:aws:sagemaker:r:1:model-package/g/3"}, ["model-package/g/3"]),
        ("ListModelPackages", {"ModelPackageGroupName": "g"}, ["*"]),
    ],
)
def test_sagemaker_actions_are_authorised_on_these_resources(action: str, parameters: dict, resources: list[str]):
    found = iam.sagemaker_resources(f"sagemaker:{action}", parameters)
    assert [arn.split(":", 5)[-1] for arn in found] == resources


class TestTranslate:
    PHRASES = {"Open the file.": "파일을 엽니다.", "Two\nlines": "두\n줄", "Close": "닫기"}

    @pytest.fixture(autouse=True)
    def phrasebook(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> translate.Settings:
        path = tmp_path / "book.jsonl.gz"
        lines = "\n".join(json.dumps({"en": en, "ko": ko}, ensure_ascii=False) for en, ko in self.PHRASES.items())
        path.write_bytes(gzip.compress(lines.encode()))
        settings = translate.Settings(phrasebook=str(path))
        monkeypatch.setattr(translate, "settings", settings)
        return settings

    def ask(self, text: str, source: str = "en", target: str = "ko", **fields: Any) -> tuple[int, dict]:
        data = {"Text": text, "SourceLanguageCode": source, "TargetLanguageCode": target, **fields}
        status, _, body = translate.translate_text(data)
        return status, json.loads(body)

    @pytest.mark.parametrize(
        ("text", "translation"),
        [
            ("Open the file.", "파일을 엽니다."),
            ("  Close\n", "  닫기\n"),
            ("Close\n\nOpen the file.", "닫기\n\n파일을 엽니다."),
            ("Close\nTwo\nlines\nClose", "닫기\n두\n줄\n닫기"),
        ],
    )
    def test_known_texts_are_translated_alone_and_packed(self, text: str, translation: str):
        status, answer = self.ask(text)
        assert (status, answer["TranslatedText"]) == (200, translation)

    def test_unknown_text_is_refused_and_called_what_it_is(self):
        status, answer = self.ask("Close\nSomething else entirely")
        assert (status, answer["__type"]) == (400, "UnsupportedOperationException")
        assert "phrasebook" in answer["message"]
        assert "Something else" in answer["message"]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("가" * 3334,), "TextSizeLimitExceededException"),
            (("Close", "en", "de"), "UnsupportedLanguagePairException"),
            (("Close", "ko", "en"), "UnsupportedLanguagePairException"),
            (("",), "ValidationException"),
        ],
    )
    def test_the_service_s_own_errors(self, arguments: tuple[str, ...], error: str):
        status, answer = self.ask(*arguments)
        assert (status, answer["__type"]) == (400, error)

    def test_faults_come_at_their_rates(self, phrasebook: translate.Settings):
        phrasebook.throttle_rate, phrasebook.error_rate = 0.5, 0.25
        answers = [self.ask("Close")[1].get("__type", "ok") for _ in range(200)]
        assert 70 < answers.count("TooManyRequestsException") < 130
        assert 30 < answers.count("InternalServerException") < 70
        assert phrasebook.requests == answers.count("ok")

    def test_one_seed_gives_one_sequence_of_faults(self, phrasebook: translate.Settings):
        def faults(seed: str) -> list[float]:
            settings = translate.Settings.from_environment({"KO_RERANKER_TRANSLATE_SEED": seed})
            return [settings.draw() for _ in range(5)]

        assert faults("1") == faults("1") != faults("2")

    def test_the_quota_throttles_until_time_has_passed(self, phrasebook: translate.Settings):
        clock = [100.0]
        phrasebook.characters_per_second, phrasebook.now = 1.0, lambda: clock[0]
        answers = [self.ask("Close")[1].get("__type", "ok") for _ in range(3)]
        assert answers == ["ok", "ok", "TooManyRequestsException"]
        clock[0] += 5
        assert self.ask("Close")[0] == 200
        assert self.ask("Close")[0] == 400

    def test_formality_is_checked_and_echoed(self):
        status, answer = self.ask("Close", Settings={"Formality": "POLITE"})
        assert (status, answer["__type"]) == (400, "ValidationException")
        assert self.ask("Close", Settings={"Formality": "FORMAL"})[1]["AppliedSettings"] == {"Formality": "FORMAL"}

    def test_a_terminology_that_cannot_be_applied_is_refused(self):
        assert self.ask("Close", TerminologyNames=["products"])[1]["__type"] == "ResourceNotFoundException"

    @pytest.mark.parametrize("text", ["2", "-0.1", "often"])
    def test_a_bad_rate_names_its_variable(self, text: str):
        with pytest.raises(ValueError, match="KO_RERANKER_TRANSLATE_ERROR_RATE must be a number from 0 to 1"):
            translate.Settings.from_environment({"KO_RERANKER_TRANSLATE_ERROR_RATE": text})


class TestCloudFormation:
    def test_a_managed_kms_key_asks_nothing_of_the_caller(self):
        rule = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        assert s3.encryption_xml({"ServerSideEncryptionConfiguration": [rule]}) is None

    def test_access_log_formats_are_filled_in(self):
        template = '{"a":"$context.status","b":"${context.identity.apiKeyId}","c":"$context.unknown.name"}.$context.stage.'
        values = {"status": 200, "identity.apiKeyId": "", "stage": "v"}
        assert api_gateway.render_access_log(template, values) == '{"a":"200","b":"-","c":"-"}.v.'
