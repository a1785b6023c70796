"""deploy/image/sbom writes a document that CycloneDX's own schema accepts and that leaves nothing out.

    tests/deploy/sbom.py
"""
import json
import subprocess
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support import DEPLOY, REPOSITORY, expect, step


def main():
    text = subprocess.run([DEPLOY / "image/sbom"], capture_output=True, text=True, check=True).stdout
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    problem = validator.validate_str(text)
    expect(problem is None, f"the document is not CycloneDX: {problem}")
    document = json.loads(text)
    components = document["components"]
    expect(validator.validate_str(json.dumps(document | {"flavour": "x"})) is not None, "a wrong field is accepted")
    named = {(component["name"], component["version"]) for component in components}
    lock = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    expect(named <= {(package["name"], package["version"]) for package in lock}, "a crate that the lock does not have")
    # What answers over the wire and what computes, neither of which any build can do without.
    expect({"tonic", "candle-core", "tokenizers"} <= {name for name, _ in named}, f"only {len(named)} crates")
    expect(not {"proptest", "tonic-prost-build", "serde_derive"} & {name for name, _ in named}, "crates that are not linked")
    bare = [component["name"] for component in components if not {"hashes", "licenses"} <= component.keys()]
    expect(not bare, f"without checksum or licence: {bare}")
    referenced = {to for dependency in document["dependencies"] for to in dependency["dependsOn"]}
    expect(referenced == {component["bom-ref"] for component in components}, "edges and components differ")
    step(f"bill of materials: {len(components)} crates with checksums and licences")


if __name__ == "__main__":
    sys.exit(main())
