"""proto/ keeps buf's rules, and its last change broke no client: neither on the wire, nor in JSON, nor in generated code.

    tests/deploy/protos.py

Needs `buf` (PyPI's buf-bin) and git's history. Changes are measured against the last release, and before the first one against the files
as they were before they were last changed.
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support import REPOSITORY, expect, step

PROTO = REPOSITORY / "proto"


def main():
    linted = buf("lint", PROTO)
    expect(not linted, linted)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        name = baseline()
        # In a checkout without history there is nothing to compare with but the files themselves.
        old = unpacked(name, work) if name else PROTO
        broken = buf("breaking", PROTO, "--against", old)
        expect(not broken, f"against {name}: {broken}")
        check_refusals(work)
    step(f"proto: buf's rules are kept, and nothing is broken since {name or 'nothing that this checkout knows'}")


def buf(*words):
    """What buf complains of."""
    ended = subprocess.run(["buf", *map(str, words)], capture_output=True, text=True)
    # 100: there are complaints. Anything else is a failure of buf itself.
    expect(ended.returncode in (0, 100), ended.stderr)
    return ended.stdout


def git(*words):
    return subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True, check=True).stdout.split()


def baseline():
    """A tag or a commit; None in a copy of the files without history."""
    if subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True).returncode != 0:
        return None
    releases = git("tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD")
    # The files on the disk may have changes that no commit holds yet: then they are compared with the last commit.
    if releases or git("status", "--porcelain", "--", "proto/newshound"):
        return releases[0] if releases else "HEAD"
    changes = git("log", "-2", "--format=%h", "--", "proto/newshound")
    return changes[1] if len(changes) == 2 else None


def unpacked(name, work):
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", name, "proto"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", work], input=archive, check=True)
    return work / "proto"


def check_refusals(work):
    """A check that accepts everything shows nothing: another number of a field, and a name that is written otherwise."""
    changed = shutil.copytree(PROTO, work / "changed")
    types = changed / "newshound/v1/types.proto"
    text = types.read_text()
    for field, command in [("string key = 2;", ("breaking", changed, "--against", PROTO)), ("string Key = 1;", ("lint", changed))]:
        expect(text.count("string key = 1;") == 1, "types.proto has no field to change")
        types.write_text(text.replace("string key = 1;", field))
        expect(buf(*command), f"buf {command[0]} accepts {field}")


if __name__ == "__main__":
    sys.exit(main())
