#!/usr/bin/env bash
# Asks for known holes in every locked package (pip-audit, at the index that pip is set up with).
# Usage: make audit     Exit status: 0 none known, or the index answers no such questions; 1 there are some.
set -euo pipefail
cd "$(dirname "$0")/.."
found=0 asked=0
for lock in requirements/*.txt; do
  report=$(pip-audit --disable-pip --require-hashes --requirement "$lock" --format json --progress-spinner off 2> /dev/null) || true
  counts=$(python - "$report" << 'EOF'
import json, sys
try:
    packages = json.loads(sys.argv[1])["dependencies"]
except ValueError:
    packages = []
known = [package for package in packages if "skip_reason" not in package]
for package in known:
    for hole in package["vulns"]:
        print(package["name"], package["version"], hole["id"], "mended in", *hole["fix_versions"], file=sys.stderr)
print(len(known), sum(len(package["vulns"]) for package in known))
EOF
  )
  asked=$((asked + ${counts% *})) found=$((found + ${counts#* }))
  echo "audit: $lock: ${counts% *} packages looked up, ${counts#* } holes known" >&2
done
if [ "$asked" = 0 ]; then
  echo "audit: NOTHING WAS AUDITED: the package index answers no questions about holes" >&2
fi
[ "$found" = 0 ]
