"""Look for inputs that reach new code, and keep them: `make fuzz`, or

    python tests/fuzz/run.py --seconds 60 path body

Needs atheris (libFuzzer); each target runs in a process of its own. A fault ends it, and its input
is kept in the corpus too, so that the test fails until it is mended.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

INPUT_BYTES_MAX = 2048
CORPUS_LINES_MAX = 400


def read(name: str) -> list[bytes]:
    from tests.fuzz.targets import CORPUS

    file = CORPUS / f"{name}.txt"
    lines = file.read_text().split() if file.exists() else []
    return [base64.b64decode(line) for line in lines]


def write(name: str, inputs: list[bytes]) -> None:
    from tests.fuzz.targets import CORPUS

    chosen = sorted(set(inputs), key=lambda i: (len(i), i))[:CORPUS_LINES_MAX]
    lines = [base64.b64encode(one).decode() for one in chosen]
    (CORPUS / f"{name}.txt").write_text("".join(line + "\n" for line in lines))


def hunt(name: str, folder: str, seconds: int) -> None:
    """In a process of its own: libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["arktos_ray"]):
        from tests.fuzz.targets import TARGETS
    flags = [
        f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", "-timeout=10",
        "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={folder}/fault-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, folder], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--in"]:
        # Nothing of ours may be imported before it is instrumented.
        _, _, folder, name, seconds = sys.argv
        hunt(name, folder, int(seconds))
        return 0
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    given = parser.parse_args()
    faults = 0
    for name in given.targets or TARGETS:
        known = read(name)
        with tempfile.TemporaryDirectory() as folder:
            for one in known:
                (Path(folder) / hashlib.sha256(one).hexdigest()).write_bytes(one)
            done = subprocess.run(
                [sys.executable, __file__, "--in", folder, name, str(given.seconds)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            found = [file.read_bytes() for file in Path(folder).iterdir()]
            bad = [file for file in Path(folder).iterdir() if file.name.startswith("fault-")]
        write(name, found)
        runs = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
        said = f"{name}: {runs[0] if runs else '?'} runs, {len(known)} -> {len(found)} inputs"
        print(said + (", A FAULT:\n" + done.stdout[-3000:] + done.stderr[-3000:] if bad else ""))
        if not runs and not bad:
            print(done.stderr[-2000:])
        faults += len(bad)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
