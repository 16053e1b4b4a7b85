"""OCI images out of nothing: tars that `ctr images import` takes, made in pure Python.

For machines that reach no registry. An image is a list of files; the two that everyone needs are
the process that holds a sandbox open (`pause_image`, a program of a few bytes that stands here)
and a shell to try things with (`busybox_image`, from Debian's busybox-static).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

BUSYBOX = Path("/bin/busybox")
# A name that no registry answers to: it is here, or it is nowhere.
BUSYBOX_IMAGE = "arktos.local/busybox:1"
PAUSE_IMAGE = "arktos.local/pause:1"
# Each is a link to the one binary.
_APPLETS = (
    "awk", "cat", "chmod", "cp", "cut", "date", "df", "dirname", "du", "echo", "env", "expr",
    "false", "find", "free", "grep", "head", "hostname", "httpd", "id", "ip", "kill", "ln", "ls",
    "md5sum", "mkdir", "mv", "nc", "netstat", "nslookup", "od", "ping", "printf", "ps", "pwd",
    "readlink", "rm", "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail",
    "tar", "tee", "test", "time", "timeout", "top", "touch", "tr", "true", "uname", "uniq",
    "uptime", "vi", "wc", "wget", "which", "whoami", "xargs", "yes",
)  # fmt: skip

# The whole of the pause program: sleep until a signal comes, and again. Nothing but SIGKILL ends
# the first process of a pid namespace that handles no signal, and that is what ends sandboxes.
_PAUSE = {
    # mov eax, 34 (pause); syscall; jmp to the start
    "amd64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # x8 = 73 (ppoll), x0..x4 = 0; svc 0; b to the start
    "arm64": (
        183,
        struct.pack(
            "<8I", 0xD2800928, 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800004,
            0xD4000001, 0x17FFFFF9,
        ),
    ),
}  # fmt: skip
_LOADED_AT = 0x400000
_ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56


def architecture() -> str:
    """This machine's, as images call it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def image(
    reference: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> bytes:
    """An OCI image layout as a tar: one layer with these files (all executable)."""
    layer_tar = _tar(files, links or {}, mode=0o755)
    layer = gzip.compress(layer_tar, mtime=0)
    config = orjson.dumps(
        {
            "architecture": architecture(),
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
    """A shell and the usual tools; needs a statically linked busybox."""
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    files = {"bin/busybox": binary.read_bytes(), "tmp/.keep": b""}
    return image(reference, files, links=links, command=["sh"])


def pause_image(reference: str = PAUSE_IMAGE) -> bytes:
    """Sleeps until it is killed. 0.3 ms. KeyError on a machine that we have no program for."""
    return image(reference, {"pause": pause_program(architecture())}, command=["/pause"])


def pause_program(architecture: str) -> bytes:
    """A static executable of some 130 bytes: an ELF header, one segment, the loop above."""
    machine, code = _PAUSE[architecture]
    headers = _ELF_HEADER_BYTES + _PROGRAM_HEADER_BYTES
    size = headers + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)  # 64 bits, little endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, machine, 1, _LOADED_AT + headers, _ELF_HEADER_BYTES, 0, 0,
        _ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES, 1, 0, 0, 0,
    )  # fmt: skip
    readable_and_executable = 5
    segment = struct.pack(
        "<IIQQQQQQ", 1, readable_and_executable, 0, _LOADED_AT, _LOADED_AT, size, size, 0x1000
    )
    return header + segment + code


def _tar(files: Mapping[str, bytes], links: Mapping[str, str], mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = {
            str(parent) for name in files for parent in Path(name).parents if str(parent) != "."
        }
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
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
