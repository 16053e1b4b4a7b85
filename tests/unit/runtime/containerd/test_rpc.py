"""Messages that are made from a table are the messages of the protocol."""

from __future__ import annotations

from arktos_ray.runtime.containerd.driver import Settings, resources, settings_in
from arktos_ray.runtime.containerd.rpc import message
from arktos_ray.runtime.port import ContainerWant


def test_a_message_survives_the_wire() -> None:
    request = message("RunPodSandboxRequest")
    made = request(
        config={
            "metadata": {"name": "web", "uid": "u1", "namespace": "default", "attempt": 2},
            "labels": {"app": "shop"},
            "linux": {"security_context": {"namespace_options": {"network": 2}}},
        }
    )
    assert request.FromString(made.SerializeToString()) == made
    # Field 1 (config) holds field 1 (metadata), which holds field 1 (name).
    assert made.SerializeToString()[4:9] == b"\n\x03web"


def test_every_method_has_its_messages() -> None:
    assert message("ContainerStatusResponse")().status.exit_code == 0
    assert message("ImageStatusResponse")().image.id == ""


def test_limits_become_those_of_cgroups() -> None:
    want = ContainerWant("c", "i", cpu_request_milli=500, cpu_limit_milli=1500)
    assert resources(want) == {"cpu_shares": 512, "cpu_period": 100_000, "cpu_quota": 150_000}
    tiny = ContainerWant("c", "i", cpu_limit_milli=1, memory_limit_bytes=1 << 20)
    assert resources(tiny) == {
        "cpu_shares": 2,
        "cpu_period": 100_000,
        "cpu_quota": 1000,
        "memory_limit_in_bytes": 1 << 20,
    }


def test_what_a_daemon_tells_of_itself_is_read_and_nonsense_is_survived() -> None:
    runc = '{"runc": {"options": {"SystemdCgroup": true}}}'
    handler = '{"defaultRuntimeName": "runc", "runtimes": ' + runc + "}"
    told = '{"sandboxImage": "example.org/pause:3", "containerd": ' + handler + "}"
    assert settings_in(told) == Settings("example.org/pause:3", systemd=True)
    for nothing in ("{}", "", "[]", "{"):
        assert settings_in(nothing) == Settings()
