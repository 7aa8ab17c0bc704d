#!/bin/sh
# PID 1 of a local instance: sets the instance up from inside and becomes tini, which reaps orphans and keeps the agent
# running. Arguments: address/prefix, gateway, host name, then the agent's command line.
#
# stdout tells the hypervisor this process's stat line (with the PID that the host knows it by), then "up". In between
# it waits for "go" on stdin: by then the hypervisor has the PID on disk and the network card is in place. If the
# hypervisor dies before that, stdin ends and so does the instance: nothing is left that nobody knows of.
set -eu
address=$1 gateway=$2 name=$3
shift 3
read -r stat </proc/self/stat # /proc is still the host's
echo "$stat"
read -r go
[ "$go" = go ]
mount -t proc proc /proc
echo "$name" >/proc/sys/kernel/hostname
ip -batch - <<END
link set lo up
addr add $address dev eth0
link set eth0 up
route add default via $gateway
END
echo up
exec </dev/null >&2
exec tini -- sh -c '
while :; do
    "$@" && code=0 || code=$?
    echo "init: the agent ended with code $code, starting it again in 1 s"
    sleep 1
done' respawn "$@"
