#!/bin/sh
# Ray starts this as its HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH). The configuration that Ray writes binds the statistics
# and metrics pages to all interfaces, and no setting changes that: this script binds them to 127.0.0.1.
previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then
    sed -i -E 's/^([[:space:]]*bind[[:space:]]+)\*?:/\1127.0.0.1:/' "$argument"
  fi
  previous=$argument
done
exec "$HAPROXY" "$@"
