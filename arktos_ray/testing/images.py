"""OCI images out of nothing: tars that `ctr images import` takes, made in pure Python.

For machines that reach no registry. An image is a list of files; the two that everyone needs are
a shell (`busybox_image`) and the process that holds a sandbox open (`pause_image`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

BUSYBOX = Path("/bin/busybox")
BUSYBOX_IMAGE = "docker.io/library/busybox:test"
PAUSE_IMAGE = "docker.io/library/pause:test"
# The applets that tests use; each is a link to the one binary.
_APPLETS = ("sh", "echo", "sleep", "cat", "ls", "true", "false", "env", "seq", "kill", "id", "wget")


def image(
    reference: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    architecture: str = "amd64",
) -> bytes:
    """An OCI image layout as a tar: one layer with these files (all executable)."""
    layer_tar = _tar(files, links or {}, mode=0o755)
    layer = gzip.compress(layer_tar, mtime=0)
    config = orjson.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer_tar)]},
        }
    )
    manifest = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }
    )
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    # containerd takes its name from the first, other tools the second.
    entry["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    blobs = {f"blobs/sha256/{_digest(b)[7:]}": b for b in (layer, config, manifest)}
    layout = orjson.dumps({"imageLayoutVersion": "1.0.0"})
    return _tar({"oci-layout": layout, "index.json": orjson.dumps(index), **blobs}, {})


def busybox_image(reference: str = BUSYBOX_IMAGE, binary: Path = BUSYBOX) -> bytes:
    """A shell and a few tools; needs a statically linked busybox."""
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    return image(reference, {"bin/busybox": binary.read_bytes()}, links=links, command=["sh"])


def pause_image(reference: str = PAUSE_IMAGE, binary: Path = BUSYBOX) -> bytes:
    """Sleeps until it is killed."""
    # The only name it has, so that busybox knows which applet it is.
    command = ["/bin/sleep", "2147483647"]
    return image(reference, {"bin/sleep": binary.read_bytes()}, command=command)


def _tar(files: Mapping[str, bytes], links: Mapping[str, str], mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = {
            str(parent) for name in files for parent in Path(name).parents if str(parent) != "."
        }
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
