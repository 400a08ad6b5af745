#!/bin/sh
# SPDX-License-Identifier: MIT
# The checks of a shared folder, on a folder of the host: what fails here is the check's fault.
# They try what another user may do, so they need root.
[ "$(id -u)" = 0 ] || {
	echo "skip: fsprobe needs root on the host"
	exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
"$1" "$dir"
