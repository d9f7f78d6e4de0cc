"""A real Kubernetes API server with its store, for the tests of pods: no node, no controllers, no kubelet.

Tests play the kubelet by writing statuses. Who asks as the provisioner has the rights of `deploy/kubernetes` only.
"""

import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.house.manifests import manifests
from tests.patience import patient
from trainwright.embedded.archive import free_ports

BIN = Path(__file__).parents[1] / ".trainwright" / "bin"
PROGRAMS = (BIN / "kube-apiserver", BIN / "etcd")
NAMESPACE = "trainwright"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
KINDS = {
    "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
    "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
    "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "PodDisruptionBudget": f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
}
ADMIN, PROVISIONER = "admin-of-the-tests", "provisioner-of-the-tests"
TOKENS = f"""{ADMIN},admin,1,"system:masters"
{PROVISIONER},system:serviceaccount:{NAMESPACE}:provisioner,2,"system:serviceaccounts"
"""
READY_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class KubernetesServer:
    """Where it answers, and the folder of the provisioner's account."""

    url: str
    account: Path
    admin: httpx.Client

    def ask(self, method: str, path: str, document: Any = None, **params: str) -> Any:
        """Ask as an admin who may do everything; return the answer's document."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if document is None else json.dumps(document)
        answer = self.admin.request(method, path, content=content, params=params, headers={"Content-Type": kind})
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json()


def pytest_report_header() -> str:
    return f"Kubernetes: {which()}"


def which() -> str:
    """Return which API server tests get, in words."""
    if all(program.exists() for program in PROGRAMS):
        return "its API server and etcd, started by the tests; no kubelet: tests write what one would"
    return "none, and tests that need one are skipped: `make kube` builds it"


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """Give an API server with the namespace of `deploy/kubernetes`."""
    if not all(program.exists() for program in PROGRAMS):
        pytest.skip("no API server of Kubernetes: `make kube` builds one")
    with ExitStack() as stack:
        yield started(tmp_path_factory.mktemp("kubernetes"), stack)


@pytest.fixture(scope="session")
def deployed(kubernetes: KubernetesServer) -> KubernetesServer:
    """Give the server with all manifests in it: each is taken as it is, unknown fields refused."""
    for manifest in manifests():
        if manifest["kind"] != "Namespace":
            kubernetes.ask("POST", KINDS[manifest["kind"]], manifest, fieldValidation="Strict")
    return kubernetes


def started(folder: Path, stack: ExitStack) -> KubernetesServer:
    """Run an API server and its store until the stack is left."""
    client, peer, port = free_ports(3)
    (folder / "tokens.csv").write_text(TOKENS)
    key = folder / "account.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    store = f"http://127.0.0.1:{client}"
    peers = f"http://127.0.0.1:{peer}"
    words = [f"--data-dir={folder}/etcd", f"--listen-client-urls={store}", f"--advertise-client-urls={store}"]
    words += [f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", "--unsafe-no-fsync"]
    _run(stack, folder / "etcd.log", BIN / "etcd", *words, f"--initial-cluster=default={peers}")
    flags = [f"--etcd-servers={store}", f"--secure-port={port}", f"--cert-dir={folder}/certificates"]
    flags += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--authorization-mode=RBAC"]
    flags += ["--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"]
    flags += [f"--service-account-signing-key-file={key}", f"--token-auth-file={folder}/tokens.csv"]
    # Without controllers nobody makes the accounts that this would look for.
    flags += ["--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount"]
    process = _run(stack, folder / "api-server.log", BIN / "kube-apiserver", *flags)
    url, certificate = f"https://127.0.0.1:{port}", folder / "certificates" / "apiserver.crt"
    admin = _ready(url, certificate, process, folder / "api-server.log")
    stack.callback(admin.close)
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text(PROVISIONER)
    (account / "namespace").write_text(NAMESPACE)
    (account / "ca.crt").write_bytes(certificate.read_bytes())
    server = KubernetesServer(url, account, admin)
    server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    return server


def _run(stack: ExitStack, log: Path, *command: str | Path) -> subprocess.Popen[bytes]:
    output = stack.enter_context(log.open("wb"))
    process = stack.enter_context(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
    stack.callback(process.kill)
    return process


def _ready(url: str, certificate: Path, process: subprocess.Popen[bytes], log: Path) -> httpx.Client:
    deadline = patient(READY_WITHIN)
    headers = {"Authorization": f"Bearer {ADMIN}"}
    while True:
        said = ""
        if certificate.exists():
            client = httpx.Client(
                base_url=url,
                headers=headers,
                verify=ssl.create_default_context(cafile=str(certificate)),
                trust_env=False,
            )
            try:
                answer = client.get("/readyz")
                if answer.status_code == 200:
                    return client
                said = answer.text
            except httpx.HTTPError as error:
                said = str(error)
            client.close()
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
