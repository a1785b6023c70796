"""Runs every `sh` block of the tutorials, each tutorial as one script; `console` blocks need a cluster or Docker and are not run.

    tests/deploy/tutorials.py target/debug     (the folder with newshound-server and newshound-trainer)
"""
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from support import DEPLOY, REPOSITORY, expect, free_ports, step

TIMEOUT_S = 600
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def main():
    programs = Path(sys.argv[1]).resolve()
    check_links()
    for path in sorted((DEPLOY / "tutorials").glob("*.md")):
        blocks = BLOCK.findall(path.read_text())
        if blocks:
            run(path.name, "".join(blocks), programs)
            step(f"{path.name}: {len(blocks)} blocks")


def check_links():
    for path in [*DEPLOY.rglob("*.md"), *(REPOSITORY / "tests/deploy").glob("*.md")]:
        for target in LINK.findall(path.read_text()):
            expect((path.parent / target).exists(), f"{path.relative_to(REPOSITORY)} links to {target}")


def run(name, script, programs):
    # What a reader would see at fixed addresses; here other servers may have them.
    for port, free in zip(("50051", "9464"), free_ports(2)):
        script = script.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deploy").symlink_to(DEPLOY)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        log = Path(folder) / "said.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=os.environ | {"PATH": path},
                stdout=out, stderr=out, start_new_session=True,
            )
        # A script that stops half way leaves servers behind, and a server that should not have started never ends.
        watch = threading.Timer(TIMEOUT_S, end_all, [process])
        watch.start()
        try:
            returncode = process.wait()
        finally:
            watch.cancel()
            end_all(process)
        said = log.read_text()
    expect(returncode == 0, f"{name} ended with {returncode}:\n{said[-4000:]}")


def end_all(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
