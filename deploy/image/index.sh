# Sourced. Configures uv for the package index that the build's secrets name. Both secrets are optional: /etc/pip.conf
# names a package index, /run/ca.crt the certificates to trust.
# shellcheck shell=sh
if [ -s /run/ca.crt ]; then export SSL_CERT_FILE=/run/ca.crt; fi
if [ -s /etc/pip.conf ]; then
  index=$(sed -n 's/^ *index-url *= *//p' /etc/pip.conf | head -n 1) # uv does not read pip's settings
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
fi
export UV_LINK_MODE=copy # the cache is on another file system
