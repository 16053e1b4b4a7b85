"""The command `arktos`: parse arguments, call the layers below, print, choose an exit code.

Imports are inside the commands: `arktos status` takes a tenth of a second, and loads neither Ray
nor pydantic. Exit codes: 0 done, 1 refused or failed, 2 not understood, 3 (status) not running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from arktos_ray import __version__
from arktos_ray.base import processes
from arktos_ray.base.places import Places, lock_holder

if TYPE_CHECKING:
    from rich.console import Console

    from arktos_ray.client.rest import Rest
    from arktos_ray.config import Config

_START_DEADLINE_S = 120.0
# A driver gets three graces of 5 s to stop its actors, and some seconds for Ray.
_STOP_DEADLINE_S = 30.0
# A new partition starts within seconds, unless its machine has to be started first.
_SETTLED_DEADLINE_S = 60.0
# The ingress learns of a new tenant by a watch.
_TENANT_KNOWN_DEADLINE_S = 5.0
# A tenant with 10,000 pods ends within a minute.
_DELETED_DEADLINE_S = 120.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="arktos")
def main() -> None:
    """A multi-tenant Kubernetes control plane on Ray."""


def _fail(message: str, hint: str = "", code: int = 1) -> NoReturn:
    click.echo(f"{_red('error')}: {message}", err=True)
    if hint:
        click.echo(f"  {hint}", err=True)
    sys.exit(code)


def _plain(stream: Any) -> bool:
    return not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"


def _red(text: str) -> str:
    return text if _plain(sys.stderr) else click.style(text, fg="red", bold=True)


def _home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=True), envvar="ARKTOS_DATA_DIR",
        default=".arktos", show_default=True, help="The directory of the cluster.",
    )(command)  # fmt: skip


def _places(data_dir: Path) -> Places:
    return Places(Path(os.path.abspath(data_dir.expanduser())))


# up


@main.command()
@click.option("--tenant-partitions", type=int, help="Stores for tenants' objects.  [2]")
@click.option("--resource-partitions", type=int, help="Stores for nodes.  [2]")
@click.option("--simulated-nodes", type=int, help="Nodes that only pretend.  [100]")
@click.option(
    "--simulated-mode", type=click.Choice(["kubemark", "instant"]),
    help="Delays of simulated nodes.  [kubemark]",
)  # fmt: skip
@click.option("--controller-shards", type=int, help="Processes that run controllers.  [1]")
@click.option("--ingresses", type=int, help="Processes that share the port.  [1]")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), envvar="ARKTOS_DATA_DIR",
    help="The directory of the cluster.  [.arktos]",
)  # fmt: skip
@click.option("--bind", help="Address to listen on.  [127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [6443]")
@click.option("--insecure", is_flag=True, default=None, help="Plain HTTP, everyone administers.")
@click.option(
    "--node/--no-node", default=None,
    help="This machine as a real node.  [where containers can run]",
)  # fmt: skip
@click.option("--containerd", type=click.Path(path_type=Path), help="Its socket.")
@click.option("--offline/--no-offline", default=None, help="Never ask an image registry.  [no]")
@click.option("--dashboard/--no-dashboard", default=None, help="Ray's own web pages.  [yes]")
@click.option("--audit", metavar="off|changes|FILE", help="The audit log's policy.  [changes]")
@click.option("--transport", type=click.Choice(["stream", "ray"]), help="Between actors.  [stream]")
@click.option("--storage", type=click.Choice(["sqlite", "etcd"]), help="Of logs.  [sqlite]")
@click.option("--etcd-endpoints", metavar="HOST:PORT,...", help="Where etcd is.")
@click.option("--etcd-ca", type=click.Path(path_type=Path), help="Its authority: TLS.")
@click.option("--etcd-cert", type=click.Path(path_type=Path), help="Our certificate for it.")
@click.option("--etcd-key", type=click.Path(path_type=Path), help="The key of that.")
@click.option("--etcd-user", help="A user that may read and write below /arktos.")
@click.option("--etcd-password-file", type=click.Path(path_type=Path), help="Its password.")
@click.option("--address", envvar="RAY_ADDRESS", help="Join this Ray cluster.  [a private one]")
@click.option(
    "--claim-resources/--no-claim-resources",
    default=None,
    help="Partitions claim resources, so that Ray adds machines for them.  [no]",
)
@click.option("--zones", help="Share partitions out to these zones: a,b,c.  [any]")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="arktos.yaml with the same keys."
)
@click.option("--detach", "-d", is_flag=True, help="Return when it runs; `arktos down` stops it.")
def up(file: Path | None, detach: bool, **flags: Any) -> None:
    """Start a cluster, or say that it runs already."""
    from arktos_ray import config as settings

    try:
        config = settings.load(file, flags)
    except settings.ConfigError as error:
        _fail(str(error), "see `arktos up --help`", 2)
    places = _places(config.data_dir)
    config = config.model_copy(update={"data_dir": places.home})
    if _already_up(places):
        given = [name for name, value in flags.items() if value is not None and name != "data_dir"]
        if given or file:
            click.echo("\nIts settings stay as they are; to change them, `arktos down` first.")
        return
    from arktos_ray import bootstrap

    try:
        bootstrap.check(config, places)
    except bootstrap.Refused as error:
        _fail(str(error), error.hint)
    process, events = _spawn(config, places, detach)
    try:
        ready = _follow(events, process)
        if ready is None:
            process.wait()
            sys.exit(1)
        _paste_lines(places, ready)
        if not detach:
            click.echo("\nCtrl-C stops it.")
            process.wait()
            _fail(f"the driver ended with {process.returncode}", f"its log: {places.driver_log}")
    except KeyboardInterrupt:
        click.echo("\nstopping")
        _stop(places, process.pid)
        sys.exit(130 if detach else 0)


def _already_up(places: Places) -> bool:
    """True when it runs. Waits for one that is starting; fails when something else is there."""
    until = time.monotonic() + _START_DEADLINE_S
    while places.held():
        note = places.read_note() or {}
        if places.driver() is not None and note.get("phase") == "running":
            click.echo(f"Already running in {places.home} (process {note['pid']}).")
            _paste_lines(places, note)
            return True
        if time.monotonic() > until:
            break
        if places.driver() is None and time.monotonic() > until - _START_DEADLINE_S + 5.0:
            break
        time.sleep(0.1)
    if places.held():
        holder = lock_holder(places.lock)
        who = (
            f"process {holder.pid} ({processes.command(holder.pid)[:80]})" if holder else "another"
        )
        _fail(f"{places.home} is in use by {who}", "choose another --data-dir")
    return False


def _spawn(config: Config, places: Places, detach: bool) -> tuple[subprocess.Popen[bytes], Any]:
    """The driver, in a session of its own, and the stream of what it tells."""
    from arktos_ray import bootstrap

    reading, writing = os.pipe()
    arguments = bootstrap.driver_arguments(config, 0 if detach else os.getpid(), writing)
    with places.driver_log.open("ab") as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=[writing], env={**os.environ, processes.MARK: str(places.home)},
        )  # fmt: skip
    os.close(writing)
    return process, os.fdopen(reading)


def _follow(events: Any, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Show the steps. The note of the driver when it runs; None when it said why it does not."""
    with _steps() as show:
        for line in events:
            event = json.loads(line)
            if "ready" in event:
                ready: dict[str, Any] = event["ready"]
                return ready
            if "error" in event:
                show(None)
                click.echo(f"{_red('error')}: {event['error']}", err=True)
                if event.get("hint"):
                    click.echo(f"  {event['hint']}", err=True)
                return None
            show(event)
    _fail(f"the driver ended with {process.wait()} before it was ready", "see its log")


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[dict[str, Any] | None], None]]:
    """One line a step, with its time; a spinner on the one that runs, on a terminal."""
    if _plain(sys.stdout):

        def plain(event: dict[str, Any] | None) -> None:
            if event and "end" in event:
                click.echo(f"  {event['end']:<14} {event['s']:6.1f} s")

        yield plain
        return
    console = _console()
    with console.status("starting") as status:

        def shown(event: dict[str, Any] | None) -> None:
            if event is None:
                status.stop()
            elif "begin" in event:
                status.update(event["begin"])
            elif "progress" in event:
                status.update(f"{event['progress']} {event['done']}/{event['of']}")
            elif "end" in event:
                console.print(f"[green]✓[/green] {event['end']:<14} [dim]{event['s']:5.1f} s[/dim]")

        yield shown


def _paste_lines(places: Places, note: dict[str, Any]) -> None:
    click.echo(f"\n  export KUBECONFIG={places.kubeconfig}")
    click.echo("  kubectl get nodes")
    click.echo("  arktos tenant create acme -o acme.kubeconfig")
    click.echo(f"\n  API        {note['url']}")
    if note.get("dashboard"):
        click.echo(f"  Dashboard  {note['dashboard']}  (token: {places.ray_token})")


@main.command(hidden=True)
@click.argument("settings")
@click.option("--parent", type=int, default=0)
@click.option("--progress", type=int)
def serve(settings: str, parent: int, progress: int | None) -> None:
    """The driver itself; `up` starts it."""
    import logging

    from arktos_ray import bootstrap
    from arktos_ray.config import Config

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    out = None
    if progress is not None and bootstrap.STARTED_OVER not in os.environ:
        os.set_inheritable(progress, False)
        out = os.fdopen(progress, "w", buffering=1)

    def tell(event: dict[str, Any]) -> None:
        nonlocal out
        if "error" in event:
            logging.error("%s", event["error"])
        if out is None:
            return
        try:
            out.write(json.dumps(event) + "\n")
            if "ready" in event or "error" in event:
                out.close()
                out = None
        except OSError:
            out = None  # Nobody listens any more.

    sys.exit(bootstrap.serve(Config.model_validate(json.loads(settings)), tell, parent))


# down


@main.command()
@_home_option
def down(data_dir: Path) -> None:
    """Stop the cluster. Its data stays."""
    places = _places(data_dir)
    driver = places.driver()
    if driver is None and not _processes(places):
        click.echo(f"No cluster runs in {places.home}.")
        places.note.unlink(missing_ok=True)
        places.remove_short()
        return
    begun = time.monotonic()
    _stop(places, driver.pid if driver else 0)
    click.echo(f"Stopped in {time.monotonic() - begun:.1f} s. The data is in {places.home}.")


def _processes(places: Places) -> list[processes.Process]:
    return processes.of_cluster(places.home) + processes.of_runtime(places.home)


def _stop(places: Places, pid: int) -> None:
    """Ask the driver; what is left after that is killed. Ends with nobody there, or fails."""
    driver = processes.found(pid) if pid else None
    if driver is not None:
        try:
            os.kill(driver.pid, signal.SIGTERM)
        except PermissionError:
            _fail(f"process {driver.pid} is not yours", "stop it as who started it")
        except ProcessLookupError:
            pass
        processes.wait_gone([driver], _STOP_DEADLINE_S)
    left = processes.of_cluster(places.home)
    if driver is not None and driver.alive():
        left.append(driver)
    if left:
        left = processes.end(left, 1.0)
    if processes.of_runtime(places.home):
        from arktos_ray.bootstrap import own_containerd

        left += own_containerd(places).dismantle()
    if left:
        _fail(
            f"still there: {', '.join(str(p.pid) for p in left)}", "stop them as who started them"
        )
    places.note.unlink(missing_ok=True)
    places.remove_short()


# status


@main.command()
@_home_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def status(data_dir: Path, output: str) -> None:
    """Partitions, tenants, nodes, and every process."""
    places = _places(data_dir)
    found = _status(places)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _print_status(found)
    sys.exit(0 if found["phase"] == "running" else 3)


def _status(places: Places) -> dict[str, Any]:
    """What the cluster says of itself; without its ingress, what is known from outside."""
    from arktos_ray.api.errors import Failure

    note, driver = places.read_note(), places.driver()
    why = ""
    if note is not None and driver is not None and note["phase"] == "running":
        try:
            found: dict[str, Any] = _admin(places).request("GET", "/arktos/v1/status")
        except Failure as failure:
            why = failure.message
        else:
            if found.get("parts"):
                return {"phase": "running", "source": "ingress", "reason": "", **found}
            why = "the ingress does not know yet"
    phase = "stopped"
    if note is not None and driver is not None:
        phase, why = note["phase"], why or note.get("reason", "")
    left = _processes(places)
    if phase == "stopped" and left:
        why = "the driver is gone, and left processes behind: `arktos down` ends them"
    return {
        "phase": phase,
        "source": "processes",
        "reason": why,
        "cluster": note if driver is not None else {"home": str(places.home)},
        "parts": [],
        "partitions": [],
        "processes": [
            {
                "pid": p.pid,
                "role": processes.role_of(processes.command(p.pid)),
                "name": "",
                "pss_bytes": processes.pss_bytes(p.pid),
                "rss_bytes": processes.rss_bytes(p.pid),
                "cpu_s": round(processes.cpu_s(p.pid), 2),
            }
            for p in left
        ],
        "totals": {},
    }


def _print_status(found: dict[str, Any]) -> None:
    cluster = found["cluster"]
    if found["phase"] == "stopped":
        click.echo(f"No cluster runs in {cluster['home']}." + _said(found["reason"]))
    else:
        click.echo(f"{found['phase']} in {cluster['home']}" + _said(found["reason"]))
        click.echo(f"API        {cluster['url']}")
        if cluster.get("dashboard"):
            click.echo(f"Dashboard  {cluster['dashboard']}")
    totals = found["totals"]
    if totals:
        memory = f"{totals['pss_bytes'] >> 20} MB"
        click.echo(
            f"Tenants    {totals['tenants']}    nodes {totals['nodes']}    pods {totals['pods']}"
            f"    objects {totals['objects']}    memory {memory}"
        )
    # Which machine, where there are several.
    where = ("MACHINE",) if len({part.get("machine", "") for part in found["parts"]}) > 1 else ()
    if found["partitions"]:
        _table(
            (*where, "PARTITION", "KIND", "STATE", "TAKES", "EPOCH", "TENANTS", "NODES", "PODS",
             "OBJECTS", "WATCHES", "CALLS/S", "WRITES/S"),
            [
                (
                    *(p["machine"] for _ in where),
                    p["name"], p["kind"], p["state"], p["takes"] or "-", p["epoch"],
                    p["tenants"], p["nodes"],
                    p["pods"], p["objects"], p["watches"], p["rates"].get("calls", ""),
                    p["rates"].get("rows", ""),
                )
                for p in found["partitions"]
            ],
        )  # fmt: skip
    if found["processes"]:
        parts = {part["pid"]: part for part in found["parts"]}
        rows = []
        for p in found["processes"]:
            part = parts.get(p["pid"], {})
            rows.append(
                (
                    *(p.get("machine", "") for _ in where),
                    p["pid"], p["role"], p["name"], part.get("state", ""), part.get("epoch", ""),
                    part.get("restarts", ""), f"{p['pss_bytes'] >> 20} MB", f"{p['cpu_s']:.1f} s",
                )
            )  # fmt: skip
        _table((*where, "PID", "ROLE", "NAME", "STATE", "EPOCH", "RESTARTS", "MEMORY", "CPU"), rows)
    for part in found["parts"]:
        if part["failure"] or part["state"] != "running":
            click.echo(f"{part['name']}: {part['state']}{_said(part['failure'])}")


def _said(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """As kubectl prints one: no lines to get in the way of `awk`."""
    text = [head, *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(head))]
    click.echo("")
    for number, row in enumerate(text):
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        bold = number == 0 and not _plain(sys.stdout)
        click.echo(click.style(line.rstrip(), bold=True) if bold else line.rstrip())


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


# Tenants


@main.group()
def tenant() -> None:
    """Create, govern and delete tenants, and get their credentials."""


@tenant.command("create")
@click.argument("name")
@click.option(
    "--storage-cluster",
    metavar="N",
    default="0",
    show_default=True,
    help="The storage cluster that keeps its objects.",
)
@_home_option
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default="-")
def tenant_create(name: str, storage_cluster: str, data_dir: Path, output: Path) -> None:
    """Create a tenant, and print a kubeconfig for it (or write it to -o)."""
    from arktos_ray.api.errors import AlreadyExists, Failure

    places = _places(data_dir)
    rest = _admin(places)
    spec = {"storageClusterId": storage_cluster}
    body = {"apiVersion": "v1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}
    try:
        rest.request("POST", "/api/v1/tenants", body)
    except AlreadyExists as failure:
        _fail(failure.message, f"its kubeconfig: arktos kubeconfig {name}")
    except Failure as failure:
        _fail(failure.message)
    _emit(_tenant_kubeconfig(places, rest, name), output)
    if str(output) != "-":
        click.echo(f"tenant {name} created; kubectl --kubeconfig {output} get pods")


@tenant.command("move")
@click.argument("name")
@click.argument("to")
@_home_option
def tenant_move(name: str, to: str, data_dir: Path) -> None:
    """Tenant NAME is served by partition TO from then on; those who use it do not notice."""
    source, paused_ms = _move(data_dir, name, to)
    click.echo(f"tenant {name} moved from {source} to {to}; writes waited {paused_ms} ms")


def _move(data_dir: Path, name: str, to: str) -> tuple[str, float]:
    """Where it was, and for how many milliseconds its writes waited. Ends when it cannot be."""
    source = _operate(data_dir, {"operation": "tenant-move", "tenant": name, "to": to})["from"]
    with _steps() as show:
        while True:
            found = _operate(data_dir, {"operation": "tenant-moves"})["moves"]
            move = next((m for m in found if m["tenant"] == name and m["to"] == to), None)
            if move is not None and move["state"] == "here":
                show(None)
                return source, move["paused_ms"]
            if move is not None and move["state"] in ("failed", "cancelled"):
                show(None)
                _fail(f"{name} stays in {source}: {move['failure'] or move['state']}")
            copied = move["objects"] if move is not None else 0
            show({"begin": f"moving {name}: {copied} objects copied"})
            time.sleep(0.2)


_FORMATS = click.Choice(["table", "json", "yaml", "name"])
_UNITS = ("B", "Ki", "Mi", "Gi", "Ti")
_SORTS = ("name", "objects", "bytes", "watches", "requests")


@tenant.command("list")
@_home_option
@click.option("-o", "--output", type=_FORMATS, default="table")
def tenant_list(data_dir: Path, output: str) -> None:
    """All tenants."""
    items = _admin_request(data_dir, "GET", "/api/v1/tenants")["items"]
    _show(
        output, items, [item["metadata"]["name"] for item in items],
        ("NAME", "PHASE", "CREATED"),
        [
            (
                item["metadata"]["name"], _phase(item),
                item["metadata"].get("creationTimestamp", ""),
            )
            for item in items
        ],
    )  # fmt: skip


@tenant.command("show")
@click.argument("name")
@_home_option
@click.option("-o", "--output", type=_FORMATS, default="table")
def tenant_show(name: str, data_dir: Path, output: str) -> None:
    """Tenant NAME: where it is, what it may have, and what it has."""
    found = _admin_request(data_dir, "GET", _tenant_path(name))
    usage = _operate(data_dir, {"operation": "tenant-usage", "tenant": name})["tenants"][0]
    if output != "table":
        _show(output, {"tenant": found, "usage": usage}, [name], (), [])
        return
    for what, value in (
        ("Name", name),
        ("Phase", _phase(found)),
        ("Created", found["metadata"].get("creationTimestamp", "")),
        ("Partition", usage["partition"]),
        ("Storage", found.get("spec", {}).get("storageClusterId", "")),
        *((kind.capitalize(), _of_limit(usage, kind)) for kind in _SORTS[1:]),
    ):
        click.echo(f"{what + ':':<12}{value}")
    kinds = sorted(usage["kinds"].items(), key=lambda kind: (-kind[1][1], kind[0]))
    _table(("KIND", "OBJECTS", "BYTES"), [(kind, of[0], _bytes(of[1])) for kind, of in kinds])


@tenant.command("suspend")
@click.argument("name")
@_home_option
def tenant_suspend(name: str, data_dir: Path) -> None:
    """Refuse the users of NAME, reads too, until it is resumed.

    Its open watches end. Its workloads go on, but for those that ask the API; operators see all.
    """
    _admin_request(data_dir, "PATCH", _tenant_path(name), {"spec": {"suspended": True}})
    click.echo(f"tenant {name} suspended; its workloads go on")


@tenant.command("resume")
@click.argument("name")
@_home_option
def tenant_resume(name: str, data_dir: Path) -> None:
    """The users of NAME may again what their roles say."""
    _admin_request(data_dir, "PATCH", _tenant_path(name), {"spec": {"suspended": None}})
    click.echo(f"tenant {name} resumed")


@tenant.command("delete")
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Until nothing of it is left.  [wait]")
@_home_option
def tenant_delete(name: str, wait: bool, data_dir: Path) -> None:
    """Delete NAME, with everything that it has."""
    from arktos_ray.api.errors import Conflict, Failure, NotFound

    rest = _admin(_places(data_dir))
    try:
        uid = rest.request("GET", _tenant_path(name))["metadata"]["uid"]
        # A second time it is a conflict: it is ending already.
        with contextlib.suppress(Conflict):
            rest.request("DELETE", _tenant_path(name))
    except Failure as failure:
        _fail(failure.message)
    if not wait:
        click.echo(f"tenant {name} is being deleted")
        return
    until = time.monotonic() + _DELETED_DEADLINE_S
    while time.monotonic() < until:
        try:
            if rest.request("GET", _tenant_path(name))["metadata"]["uid"] != uid:
                break
        except NotFound:
            break
        except Failure as failure:
            _fail(failure.message)
        time.sleep(0.1)
    else:
        _fail(f"tenant {name} is still ending", "see what is left: arktos tenant show " + name)
    click.echo(f"tenant {name} deleted")


@tenant.command("kubeconfig")
@click.argument("name")
@click.option(
    "--as-operator", is_flag=True, help="With your own credential, not with the tenant's."
)
@_home_option
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default="-")
def tenant_kubeconfig(name: str, as_operator: bool, data_dir: Path, output: Path) -> None:
    """Print a kubeconfig for NAME (or write it to -o).

    As an operator you are in it as yourself, and see it as its own users do: one tenant, and
    nothing of the cluster.
    """
    places = _places(data_dir)
    rest = _admin(places)
    if not as_operator:
        _emit(_tenant_kubeconfig(places, rest, name), output)
        return
    from arktos_ray.base import pki

    _admin_request(data_dir, "GET", _tenant_path(name))
    server = f"{rest.server}/t/{name}"
    if rest.ca is None:
        config = pki.kubeconfig(server, "admin")
    else:
        config = pki.admin_kubeconfig(server, pki.Pki(places.pki))
    config["contexts"][0]["name"] = config["current-context"] = f"admin@{name}"
    _emit(pki.dump_kubeconfig(config), output)


@tenant.command("usage")
@click.argument("name", required=False)
@click.option("--sort", type=click.Choice(_SORTS), default="bytes", show_default=True)
@_home_option
@click.option("-o", "--output", type=_FORMATS, default="table")
def tenant_usage(name: str | None, sort: str, data_dir: Path, output: str) -> None:
    """What each tenant has, and may have: those with most first."""
    if name is not None:
        _admin_request(data_dir, "GET", _tenant_path(name))
    found = _operate(data_dir, {"operation": "tenant-usage", "tenant": name or ""})
    rows = sorted(found["tenants"], key=lambda row: row["tenant"])
    if sort != "name":
        rows.sort(key=lambda row: -row[sort])
    _show(
        output, rows, [row["tenant"] for row in rows],
        ("TENANT", "PARTITION", "OBJECTS", "BYTES", "WATCHES", "REQUESTS"),
        [
            (row["tenant"], row["partition"], *(_of_limit(row, kind) for kind in _SORTS[1:]))
            for row in rows
        ],
    )  # fmt: skip
    if found["silent"]:
        click.echo(f"not all is here: no answer from {', '.join(found['silent'])}", err=True)


@tenant.command("limits")
@click.argument("name")
@click.option("--objects", metavar="N|none", help="How many, of all kinds.")
@click.option("--bytes", "size", metavar="N|none", help="Of all of them: 500Mi, 2Gi.")
@click.option("--watches", metavar="N|none", help="Open at one ingress.")
@click.option("--requests", metavar="N|none", help="Under way at one ingress.")
@_home_option
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table")
def tenant_limits(
    name: str, objects: str | None, size: str | None, watches: str | None, requests: str | None,
    data_dir: Path, output: str,
) -> None:  # fmt: skip
    """What NAME may have at most. Without options: what that is. `none`: as all tenants."""
    given = {"objects": objects, "bytes": size, "watches": watches, "requests": requests}
    asked: dict[str, Any] = {}
    for kind, value in given.items():
        if value is None:
            continue
        if value == "none":
            asked[kind] = None
        elif kind == "bytes":
            asked[kind] = value
        elif value.isdecimal():
            asked[kind] = int(value)
        else:
            _fail(f"--{kind} {value} is no number", "a number, or none", 2)
    if asked:
        _admin_request(data_dir, "PATCH", _tenant_path(name), {"spec": {"limits": asked}})
    row = _operate(data_dir, {"operation": "tenant-usage", "tenant": name})["tenants"][0]
    limits = row["limits"]
    _show(
        output, limits, [], ("LIMIT", "ALLOWED", "USED"),
        [
            (kind, _amount(kind, limits[kind]) if kind in limits else "-", _amount(kind, row[kind]))
            for kind in _SORTS[1:]
        ],
    )  # fmt: skip


def _tenant_path(name: str) -> str:
    from urllib.parse import quote

    return f"/api/v1/tenants/{quote(name, safe='')}"


def _phase(found: dict[str, Any]) -> str:
    phase: str = found.get("status", {}).get("phase", "")
    return f"{phase},Suspended" if found.get("spec", {}).get("suspended") else phase


def _of_limit(row: dict[str, Any], kind: str) -> str:
    used = _amount(kind, row[kind])
    return f"{used}/{_amount(kind, row['limits'][kind])}" if kind in row["limits"] else used


def _amount(kind: str, amount: int) -> str:
    return _bytes(amount) if kind == "bytes" else str(amount)


def _bytes(size: float) -> str:
    """As kubectl writes amounts of memory: 12Mi, 1.5Gi."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.1f}".removesuffix(".0") + ("" if unit == "B" else unit)


def _show(
    output: str, raw: Any, names: list[str], head: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> None:
    """In the form that was asked for."""
    if output == "json":
        click.echo(json.dumps(raw, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(raw, sort_keys=False), nl=False)
    elif output == "name":
        click.echo("\n".join(names))
    else:
        _table(head, rows)


@tenant.command("token")
@click.argument("name")
@_home_option
def tenant_token(name: str, data_dir: Path) -> None:
    """A token for the administrator of a tenant."""
    click.echo(_token(_admin(_places(data_dir)), name))


@main.command()
@click.argument("name", required=False)
@_home_option
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default="-")
def kubeconfig(name: str | None, data_dir: Path, output: Path) -> None:
    """Print the administrator's kubeconfig, or that of tenant NAME."""
    places = _places(data_dir)
    if name is not None:
        _emit(_tenant_kubeconfig(places, _admin(places), name), output)
        return
    try:
        _emit(places.kubeconfig.read_text(), output)
    except OSError:
        _fail(f"{places.kubeconfig} is not there", "start the cluster first: arktos up")


def _admin(places: Places) -> Rest:
    """The API as the administrator. Fails when no cluster runs."""
    from arktos_ray.client.rest import Rest

    note = places.read_note()
    if note is None or places.driver() is None:
        _fail(f"no cluster runs in {places.home}", "start one: arktos up --detach", 3)
    if note["url"].startswith("http:"):
        return Rest(note["url"])
    pki = places.pki
    return Rest(note["url"], pki / "ca.crt", pki / "admin.crt", pki / "admin.key")


def _token(rest: Rest, name: str) -> str:
    from urllib.parse import quote

    from arktos_ray.api.errors import Failure, NotFound

    until = time.monotonic() + _TENANT_KNOWN_DEADLINE_S
    while True:
        try:
            answer = rest.request("POST", f"/arktos/v1/tenants/{quote(name, safe='')}/token")
        except NotFound as failure:
            if time.monotonic() > until or not _has_tenant(rest, quote(name, safe="")):
                _fail(failure.message)
            time.sleep(0.05)
        except Failure as failure:
            _fail(failure.message)
        else:
            token: str = answer["token"]
            return token


def _has_tenant(rest: Rest, name: str) -> bool:
    from arktos_ray.api.errors import Failure

    try:
        rest.request("GET", f"/api/v1/tenants/{name}")
    except Failure:
        return False
    return True


def _tenant_kubeconfig(places: Places, rest: Rest, name: str) -> str:
    from arktos_ray.base import pki

    ca = (places.pki / "ca.crt").read_bytes() if rest.ca is not None else None
    return pki.dump_kubeconfig(pki.kubeconfig(rest.server, name, ca=ca, token=_token(rest, name)))


def _emit(text: str, output: Path) -> None:
    if str(output) == "-":
        click.echo(text, nl=False)
        return
    from arktos_ray.base import pki

    try:
        pki.write_private(output, text.encode())
    except OSError as error:
        _fail(f"{output}: {error.strerror}")


# Partitions and simulated nodes


@main.group()
def partition() -> None:
    """Add, drain and remove partitions while the cluster works."""


@partition.command("list")
@_home_option
@click.option("-o", "--output", type=click.Choice(["table", "json", "name"]), default="table")
def partition_list(data_dir: Path, output: str) -> None:
    """All partitions, and whether they take new tenants or nodes."""
    found = _admin_request(data_dir, "GET", "/arktos/v1/status")["partitions"]
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    elif output == "name":
        click.echo("\n".join(each["name"] for each in found))
    else:
        columns = ("name", "kind", "state", "takes", "tenants", "nodes", "pods", "objects")
        _table(
            tuple(column.upper() for column in columns),
            [tuple(each[column] for column in columns) for each in found],
        )


@partition.command("add")
@click.argument("kind", type=click.Choice(["tenant", "resource"]))
@_home_option
@click.option("--zone", help="Only on machines of this zone.")
@click.option("--storage", help="The storage cluster that has its log.  [0]")
def partition_add(kind: str, data_dir: Path, zone: str | None, storage: str | None) -> None:
    """Start one more; it takes new tenants, or new nodes, from then on."""
    asked = {"operation": "partition-add", "kind": kind, "zone": zone, "storage": storage}
    done = _operate(data_dir, asked)
    _wait_settled(data_dir)
    click.echo(f"{kind} partition {done['name']} added")


@partition.command("drain")
@click.argument("name")
@_home_option
@click.option("--undo", is_flag=True, help="It takes what is new again.")
@click.option("--move", is_flag=True, help="Also move its tenants to the other partitions.")
def partition_drain(name: str, data_dir: Path, undo: bool, move: bool) -> None:
    """NAME takes no new tenants, or nodes. What it has stays until it is moved or deleted."""
    _operate(data_dir, {"operation": "partition-drain", "name": name, "back": undo})
    _wait_settled(data_dir)
    click.echo(f"{name} {'takes what is new again' if undo else 'is drained'}")
    if move and not undo:
        _move_away(data_dir, name)


def _move_away(data_dir: Path, name: str) -> None:
    """Each of its tenants to the partition of the same storage cluster that has fewest. To be
    interrupted, and begun again."""
    rows = _operate(data_dir, {"operation": "topology"})["partitions"]
    storage = next(r["storage"] for r in rows if r["name"] == name)
    taking = [
        r["name"]
        for r in rows
        if r["kind"] == "tenant" and r["state"] == "active" and r["storage"] == storage
    ]
    homes = _operate(data_dir, {"operation": "tenant-homes"})["homes"]
    if name not in homes:
        _fail(f"{name} has no tenants to move", "nodes stay in their resource partition")
    leaving = homes[name]
    if leaving and not taking:
        _fail(
            f"{name} is the last tenant partition of storage cluster {storage} that takes tenants",
            f"arktos partition add tenant --storage {storage}",
        )
    for number, tenant_name in enumerate(leaving, 1):
        to = min(taking, key=lambda each: len(homes[each]))
        _, paused_ms = _move(data_dir, tenant_name, to)
        homes[to].append(tenant_name)
        click.echo(
            f"  {number}/{len(leaving)}  {tenant_name} is in {to}; writes waited {paused_ms} ms"
        )


@partition.command("remove")
@click.argument("name")
@_home_option
def partition_remove(name: str, data_dir: Path) -> None:
    """End NAME, which is drained and empty. Its log stays on disk; its name is not used again."""
    _operate(data_dir, {"operation": "partition-remove", "name": name})
    _wait_settled(data_dir)
    click.echo(f"partition {name} removed")


@main.group()
def simulate() -> None:
    """Add and remove nodes that only pretend, while the cluster works."""


@simulate.command("add")
@click.argument("nodes", type=click.IntRange(1, 100_000))
@_home_option
@click.option(
    "--in", "among", multiple=True, metavar="PARTITION",
    help="Resource partitions that they are in, in turn.  [all that take nodes]",
)  # fmt: skip
@click.option("--mode", type=click.Choice(["kubemark", "instant"]), help="Delays.  [kubemark]")
def simulate_add(nodes: int, data_dir: Path, among: tuple[str, ...], mode: str | None) -> None:
    """Start a fleet of NODES simulated nodes."""
    asked = {"operation": "simulate-add", "nodes": nodes, "partitions": among, "mode": mode}
    done = _operate(data_dir, asked)
    _wait_settled(data_dir)
    click.echo(f"{nodes} simulated nodes are starting: {done['name']}")


@simulate.command("list")
@_home_option
def simulate_list(data_dir: Path) -> None:
    """The fleets."""
    found = _operate(data_dir, {"operation": "topology"})["fleets"]
    _table(
        ("NAME", "NODES", "MODE", "PARTITIONS"),
        [(f["name"], f["nodes"], f["mode"], ",".join(f["partitions"])) for f in found],
    )


@simulate.command("remove")
@click.argument("name")
@_home_option
def simulate_remove(name: str, data_dir: Path) -> None:
    """Delete the nodes of fleet NAME, and end it."""
    done = _operate(data_dir, {"operation": "simulate-remove", "name": name})
    _wait_settled(data_dir)
    click.echo(f"{name} removed, with {done['nodes']} nodes")


def _admin_request(data_dir: Path, method: str, path: str, body: Any = None) -> Any:
    """An answer of the API to the administrator. Says why when there is none, and ends."""
    from arktos_ray.api.errors import Failure

    try:
        return _admin(_places(data_dir)).request(method, path, body)
    except Failure as failure:
        _fail(failure.message)


def _operate(data_dir: Path, asked: dict[str, Any]) -> dict[str, Any]:
    done: dict[str, Any] = _admin_request(data_dir, "POST", "/arktos/v1/operations", asked)
    return done


def _wait_settled(data_dir: Path) -> None:
    """Until everybody works by the topology that counts now; says who is late in the end."""
    until = time.monotonic() + _SETTLED_DEADLINE_S
    with _steps() as show:
        show({"begin": "telling everybody"})
        while True:
            late = _operate(data_dir, {"operation": "topology"})["late"]
            if not late or time.monotonic() > until:
                break
            show({"begin": f"waiting for {', '.join(name for name, _ in late)}"})
            time.sleep(0.1)
        show(None)
    if late:
        names = ", ".join(f"{name} ({state})" for name, state in late)
        click.echo(f"done, but these do not know of it yet: {names}; see arktos status", err=True)


# Images


@main.group()
def image() -> None:
    """Images of this machine as a node."""


@image.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_home_option
def image_import(file: Path, data_dir: Path) -> None:
    """Bring in what `docker save` wrote, or an OCI layout as a tar (- is standard input)."""
    try:
        archive = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    _import(_places(data_dir), archive)


@image.command("demo")
@_home_option
def image_demo(data_dir: Path) -> None:
    """Make arktos.local/busybox:1 out of this machine's busybox-static."""
    from arktos_ray.runtime.containerd import images

    try:
        archive = images.busybox_image()
    except OSError as error:
        _fail(f"{images.BUSYBOX}: {error.strerror}", "apt-get install busybox-static")
    _import(_places(data_dir), archive)


@image.command("list")
@_home_option
@click.option("-o", "--output", type=click.Choice(["table", "name"]), default="table")
def image_list(data_dir: Path, output: str) -> None:
    """What is here."""
    from arktos_ray.api.errors import Failure
    from arktos_ray.runtime.containerd import ctr

    try:
        found = ctr.images(_containerd(_places(data_dir)))
    except Failure as failure:
        _fail(failure.message)
    if output == "name":
        click.echo("\n".join(each.name for each in found))
    else:
        _table(("NAME", "SIZE", "DIGEST"), [(i.name, i.size, i.digest[:19]) for i in found])


def _import(places: Places, archive: bytes) -> None:
    from arktos_ray.api.errors import Failure
    from arktos_ray.runtime.containerd import ctr

    try:
        names = ctr.import_images(_containerd(places), archive)
    except Failure as failure:
        _fail(failure.message)
    click.echo("\n".join(f"imported {name}" for name in names) or "nothing was in it")


def _containerd(places: Places) -> str:
    """The socket of this machine's containerd. Fails when it is no node."""
    note = places.read_note()
    if note is None or places.driver() is None:
        _fail(f"no cluster runs in {places.home}", "start one: arktos up --detach", 3)
    if not note.get("containerd"):
        _fail("this machine is not a node of it", "`arktos doctor` says what is missing")
    address: str = note["containerd"]
    return address


# Benchmarks


class _Bench(click.Group):
    """Its commands are imported when one of them is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from arktos_ray.bench.command import bench

        return bench.list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from arktos_ray.bench.command import bench

        return bench.get_command(ctx, name)


main.add_command(_Bench("bench", help="Measure a cluster of its own on this machine."))


# The rest


@main.command()
def version() -> None:
    """Versions of Arktos-Ray, Python, and Ray."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    click.echo(f"arktos {__version__}")
    click.echo(f"python {sys.version.split()[0]}")
    with contextlib.suppress(PackageNotFoundError):
        click.echo(f"ray {installed('ray')}")


@main.command()
@_home_option
@click.option(
    "--containerd", type=click.Path(path_type=Path), default="/run/containerd/containerd.sock"
)
@click.option(
    "--address", envvar="RAY_ADDRESS", default="",
    help="Of the Ray cluster that is to be joined: checks what several machines need as well.",
)  # fmt: skip
def doctor(data_dir: Path, containerd: Path, address: str) -> None:
    """What this machine has, and what is missing."""
    from arktos_ray.base import machine

    findings = list(machine.examine(_places(data_dir).home, containerd))
    if address:
        from arktos_ray.actors.machines import RAY_ENVIRONMENT

        findings += machine.examine_for_several(address, os.environ, RAY_ENVIRONMENT)
    good = True
    for finding in findings:
        mark = {"ok": "ok  ", "missing": "    ", "bad": "BAD "}[finding.verdict]
        click.echo(f"{mark} {finding.what:<16} {finding.found}")
        if finding.hint:
            click.echo(f"     {'':<16} {finding.hint}")
        good = good and finding.verdict != "bad"
    sys.exit(0 if good else 1)
