"""Start a Lambda handler as AWS's managed Python runtime does. Run as a file, by ``lambda_runtime``; never imported.

Usage: python -I -S lambda_bootstrap.py SITE_PACKAGES. The environment is the function's; LAMBDA_TASK_ROOT is its code.
The managed runtime has the standard library and the AWS SDK, so nothing else that happens to be installed beside the
local cloud may be importable: a bundle that forgot a package must fail here as it would on AWS.

The runtime interface client's HTTP client is an extension built for Linux only; elsewhere RuntimeClient takes its place.
"""

import http.client
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# Top-level modules of the managed runtime: the AWS SDK with its dependencies and the runtime interface client.
MANAGED = frozenset(
    {
        "awslambdaric",
        "boto3",
        "botocore",
        "dateutil",
        "jmespath",
        "runtime_client",
        "s3transfer",
        "simplejson",
        "six",
        "snapshot_restore_py",
        "urllib3",
    }
)


class RuntimeFinder:
    """Finds the managed runtime's own packages in site-packages and nothing else there."""

    def __init__(self, site_packages: str) -> None:
        self.site_packages = site_packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Answer for top-level names only: a package knows where its own modules are."""
        if path is None and name in MANAGED:
            return PathFinder.find_spec(name, [self.site_packages])
        return None


class RuntimeClient:
    """The four functions of the module ``runtime_client``, over http.client."""

    def __init__(self, address: str) -> None:
        self.address = address

    def initialize_client(self, user_agent: str) -> None:
        """Take the user agent; the local Runtime API doesn't ask for it."""

    def next(self) -> tuple[bytes, http.client.HTTPMessage]:
        """Wait for an invocation: its event and headers."""
        return self._request("GET", "invocation/next")

    def post_invocation_result(
        self, invoke_id: str, result: bytes, content_type: str, invocation_id: str | None = None
    ) -> None:
        """Answer an invocation."""
        self._request("POST", f"invocation/{invoke_id}/response", result, {"Content-Type": content_type})

    def post_error(self, invoke_id: str, error: str, xray_fault: str, invocation_id: str | None = None) -> None:
        """Report an invocation's exception."""
        headers = {"Content-Type": "application/json", "Lambda-Runtime-Function-Error-Type": "Unhandled"}
        self._request("POST", f"invocation/{invoke_id}/error", error.encode(), headers)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(self.address)
        try:
            connection.request(method, f"/2018-06-01/runtime/{path}", body, headers or {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"The Lambda Runtime API answered {response.status} to {method} {path}: {content!r}")
        return content, response.headers


def provide_runtime_client(site_packages: str) -> None:
    """Stand in for the native HTTP client where it isn't built."""
    if PathFinder.find_spec("runtime_client", [site_packages]) is not None:
        return
    client = RuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
    module = ModuleType("runtime_client")
    for name in ("initialize_client", "next", "post_invocation_result", "post_error"):
        setattr(module, name, getattr(client, name))
    sys.modules["runtime_client"] = module


def main() -> None:
    """Set up the import system and hand over to the runtime interface client."""
    task_root = os.environ["LAMBDA_TASK_ROOT"]
    sys.path.insert(0, task_root)
    sys.meta_path.append(RuntimeFinder(sys.argv[1]))
    provide_runtime_client(sys.argv[1])
    os.chdir(task_root)
    from awslambdaric.__main__ import main as run

    run([sys.argv[0], os.environ["_HANDLER"]])


if __name__ == "__main__":
    main()
