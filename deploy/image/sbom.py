"""Write the image's SBOM (CycloneDX JSON) to stdout: Python packages, Debian packages, base image, trained weights.

Usage: sbom.py --environment PYTHON --models DIR --base IMAGE     In a stage of the Dockerfile, with cyclonedx-bom.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the SBOM of the image to stdout.")
    parser.add_argument("--environment", required=True, metavar="PYTHON", help="Python of the environment to list")
    parser.add_argument("--models", required=True, type=Path, metavar="DIR", help="the model repository in the image")
    parser.add_argument("--base", required=True, metavar="IMAGE", help="name of the base image")
    options = parser.parse_args()
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-format", "JSON", options.environment]
    bill = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    bill["metadata"]["component"] = {"type": "container", "name": "triton-jpeg-classifier", "bom-ref": "image"}
    components = [
        *bill.get("components", []),
        {"type": "container", "name": options.base, "bom-ref": f"base:{options.base}"},
        *debian_packages(),
        *weights(options.models),
    ]
    # Several artefacts may share their weights.
    bill["components"] = list({component["bom-ref"]: component for component in components}.values())
    print(json.dumps(bill, indent=1))
    return 0


def debian_packages() -> Iterator[dict[str, Any]]:
    """Yield the Debian packages of the base image, each with its package URL (purl type deb)."""
    fields = "${Package}\t${Version}\t${Architecture}\n"
    distribution = platform.freedesktop_os_release()["ID"]
    listed = subprocess.run(["dpkg-query", "--show", f"--showformat={fields}"], stdout=subprocess.PIPE, check=True)
    for line in listed.stdout.decode().splitlines():
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/{distribution}/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
        yield {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def weights(models: Path) -> Iterator[dict[str, Any]]:
    """Yield each artefact of the repository and the trained weights it was built from, with their SHA-256."""
    for path in sorted(models.glob("*/*/model*.json")):
        report = json.loads(path.read_text())
        for name, digest in (
            (str(report["weights"]["source"]), report["weights"]["sha256"]),
            (
                f"{path.parent.parent.name}/{path.parent.name}/{report['artefact']['file']}",
                report["artefact"]["sha256"],
            ),
        ):
            component = {"type": "machine-learning-model", "name": name, "bom-ref": f"model:{name}"}
            if digest is not None:
                component["hashes"] = [{"alg": "SHA-256", "content": digest}]  # type: ignore[assignment]
            yield component


if __name__ == "__main__":
    sys.exit(main())
