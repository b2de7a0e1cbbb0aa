#!/bin/sh
# Ray starts this as its HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH). The configuration that Ray writes opens the pages of
# statistics and metrics on all interfaces, and no setting says otherwise: here they are kept to this machine.
previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then
    sed -i -E 's/^([[:space:]]*bind[[:space:]]+)\*?:/\1127.0.0.1:/' "$argument"
  fi
  previous=$argument
done
exec "$HAPROXY" "$@"
