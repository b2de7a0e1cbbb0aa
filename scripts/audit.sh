#!/usr/bin/env bash
# Asks for known holes in every locked package (pip-audit, at the index that pip is set up with).
# Usage: make audit     Exit status: 0 none known, or the index answers no such questions; 1 there are some.
set -euo pipefail
cd "$(dirname "$0")/.."
found=0 asked=0 silent=()
report=$(mktemp)
trap 'rm -f "$report"' EXIT
for lock in requirements/*.txt; do
  pip-audit --disable-pip --require-hashes --requirement "$lock" --format json --progress-spinner off \
    > "$report" 2> /dev/null || true
  counts=$(python - "$report" << 'EOF'
import json, pathlib, sys
try:
    packages = json.loads(pathlib.Path(sys.argv[1]).read_text())["dependencies"]
except ValueError:
    packages = []
known = [package for package in packages if "skip_reason" not in package]
for package in known:
    for hole in package["vulns"]:
        print(package["name"], package["version"], hole["id"], "mended in", *hole["fix_versions"], file=sys.stderr)
print(len(known), sum(len(package["vulns"]) for package in known))
EOF
  )
  if [ "${counts% *}" = 0 ]; then silent+=("$lock"); fi
  asked=$((asked + ${counts% *})) found=$((found + ${counts#* }))
  echo "audit: $lock: ${counts% *} packages looked up, ${counts#* } holes known" >&2
done
if [ "$asked" = 0 ]; then
  echo "audit: NOTHING WAS AUDITED: the package index answers no questions about holes" >&2
elif [ "${#silent[@]}" != 0 ]; then
  echo "audit: could not be audited, while others could: ${silent[*]}" >&2
  exit 1
fi
[ "$found" = 0 ]
