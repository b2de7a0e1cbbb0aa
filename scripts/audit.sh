#!/usr/bin/env bash
# Looks up known vulnerabilities of every locked package with pip-audit, at the index of pip's configuration.
# Usage: make audit     Exit status: 0 none known, or the index has no vulnerability data; 1 some known.
set -euo pipefail
cd "$(dirname "$0")/.."
audited=0 vulnerable=0 skipped=()
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
    for vulnerability in package["vulns"]:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no release"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}", file=sys.stderr)
print(len(known), sum(len(package["vulns"]) for package in known))
EOF
  )
  if [ "${counts% *}" = 0 ]; then skipped+=("$lock"); fi
  audited=$((audited + ${counts% *})) vulnerable=$((vulnerable + ${counts#* }))
  echo "audit: $lock: ${counts% *} packages audited, ${counts#* } known vulnerabilities" >&2
done
if [ "$audited" = 0 ]; then
  echo "audit: NOTHING WAS AUDITED: the package index has no vulnerability data" >&2
elif [ "${#skipped[@]}" != 0 ]; then
  echo "audit: no data for these lock files, while others have some: ${skipped[*]}" >&2
  exit 1
fi
[ "$vulnerable" = 0 ]
