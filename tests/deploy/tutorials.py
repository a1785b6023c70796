"""Runs every `sh` and `python run` block of the tutorials, each tutorial as one script; `console` blocks need a cluster or Docker and are not run.

    tests/deploy/tutorials.py target/debug            (the folder with newshound-server and newshound-trainer)
    tests/deploy/tutorials.py target/release --slow   (blocks that begin with ```sh slow too, which train)
    tests/deploy/tutorials.py                         (links and `python` blocks alone)
"""
import ast
import builtins
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
# Of two servers and a Redis.
PORTS = ("50051", "9464", "50052", "9465", "6379")
BLOCK = re.compile(r"^```(sh slow|sh|python run|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def main():
    check_links()
    check_python()
    if len(sys.argv) == 1:
        return
    programs = Path(sys.argv[1]).resolve()
    languages = ("sh", "python run", "sh slow") if "--slow" in sys.argv else ("sh", "python run")
    for path in sorted((DEPLOY / "tutorials").glob("*.md")):
        blocks = [commands(language, block) for language, block in BLOCK.findall(path.read_text()) if language in languages]
        if blocks:
            run(path.name, "".join(blocks), programs)
            step(f"{path.name}: {len(blocks)} blocks")


def blocks_of(path, *languages):
    return [block for found, block in BLOCK.findall(path.read_text()) if found in languages]


def commands(language, block):
    return f"python3 - <<'END_OF_BLOCK'\n{block}END_OF_BLOCK\n" if language.startswith("python") else block


def check_links():
    for path in [REPOSITORY / "README.md", *DEPLOY.rglob("*.md")]:
        for target, anchor in LINK.findall(path.read_text()):
            expect(leads_somewhere(path, target, anchor), f"{path.relative_to(REPOSITORY)} links to {target}#{anchor}")
    for target, anchor in (("runbook.html", ""), ("runbook.md", "no-heading"), ("", "no-heading")):
        expect(not leads_somewhere(DEPLOY / "README.md", target, anchor), f"a link to {target}#{anchor} is accepted")


def leads_somewhere(path, target, anchor):
    """Whether a page's link is to a file that exists and, with an anchor, to a heading of it, by the name that GitHub gives headings."""
    there = path.parent / target if target else path
    return there.exists() and (not anchor or anchor in map(anchor_of, HEADING.findall(CODE.sub("", there.read_text()))))


def anchor_of(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def check_python():
    """Every `python` block is Python, and knows every name that it uses."""
    n_blocks = 0
    for path in [REPOSITORY / "README.md", *DEPLOY.rglob("*.md")]:
        for block in blocks_of(path, "python", "python run"):
            unknown = unknown_names(ast.parse(block))
            expect(not unknown, f"{path.relative_to(REPOSITORY)}: Python does not know {unknown}")
            n_blocks += 1
    expect(n_blocks > 0, "no block of Python was found")
    step(f"links; {n_blocks} blocks of Python know the names that they use")


def unknown_names(tree):
    """Names that are used, and neither bound anywhere nor Python's own."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known = {name.id for name in names if not isinstance(name.ctx, ast.Load)} | set(dir(builtins))
    imports = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    known |= {alias.asname or alias.name.split(".")[0] for alias in imports}
    return sorted({name.id for name in names} - known)


def run(name, script, programs):
    # What a reader would see at fixed addresses; here other servers may have them.
    for port, free in zip(PORTS, free_ports(len(PORTS))):
        script = re.sub(rf"(127\.0\.0\.1:|--port ){port}\b", rf"\g<1>{free}", script)
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
