#!/bin/sh
# Measures DHCP leases next to dnsmasq: perfdhcp (Debian package kea-admin) asks for as many as it can, each server in
# turn, in network namespaces that are removed at the end. ./bench dhcp runs it; docs/benchmarks.md says how to read it.
# usage: ./bench dhcp [ROUNDS [CLIENTS [SECONDS [RATE]]]]
# BENCH_DIR is where leases are kept: /dev/shm, so that nobody waits for a disk, or a folder on one.
set -eu
rounds=${1:-3} clients=${2:-1000} seconds=${3:-6} rate=${4:-4000}
bin=$PWD/build/out
work=$(mktemp -d -p "${BENCH_DIR:-/dev/shm}") srv=mimeo-bench-srv-$$ cli=mimeo-bench-cli-$$ pid=
cleanup() {
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || :
	ip netns del "$srv" 2>/dev/null || :
	ip netns del "$cli" 2>/dev/null || :
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
for p in perfdhcp dnsmasq ip; do
	command -v $p >/dev/null || { echo "bench: $p is missing (Debian packages: kea-admin dnsmasq-base iproute2)" >&2; exit 1; }
done
ip netns add "$srv"
ip netns add "$cli"
ip -n "$srv" link add eth0 type veth peer name eth0 netns "$cli"
for n in "$srv" "$cli"; do
	ip -n "$n" link set lo up
	ip -n "$n" link set eth0 up
done
ip -n "$srv" addr add 10.77.0.1/16 dev eth0
ip -n "$cli" addr add 10.77.0.4/16 dev eth0
printf 'interfaces:\n- name: eth0\n  ra: "off"\n' >"$work/conf.yaml"
# perfdhcp counts MAC addresses up from this one.
awk -v n="$clients" 'BEGIN { print "name,mac"; for (i = 0; i < n; i++) { m = 16909060 + i
	printf "n%05d,00:0c:%02x:%02x:%02x:%02x\n", i, int(m / 16777216) % 256, int(m / 65536) % 256, int(m / 256) % 256, m % 256 } }' >"$work/nodes.csv"

start() {
	rm -rf "$work/state" "$work/leases"
	case $1 in
	dnsmasq)
		ip netns exec "$srv" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --group=root --no-ping --quiet-dhcp \
			--dhcp-authoritative --dhcp-lease-max=100000 --dhcp-range=10.77.128.1,10.77.255.250,1h --dhcp-leasefile="$work/leases" --pid-file= --log-facility="$work/log" &
		pid=$! ;;
	mimeod)
		ip netns exec "$srv" "$bin/mimeod" --state "$work/state" --config "$work/conf.yaml" >"$work/log" 2>&1 &
		pid=$!
		for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s "$work/state/admin.json" ] && break; sleep 1; done
		ip netns exec "$srv" env MIMEO_ADMIN_FILE="$work/state/admin.json" "$bin/mimeo" inventory import "$work/nodes.csv" --yes >/dev/null 2>>"$work/log" ;;
	esac
	sleep 1
}

printf '| server | leases a second | average ms to the offer | to the ACK | processor s | load before |\n|---|---|---|---|---|---|\n'
r=0
while [ $r -lt "$rounds" ]; do
	r=$((r + 1))
	for s in dnsmasq mimeod; do
		read -r load _ </proc/loadavg
		start $s
		ip netns exec "$cli" perfdhcp -4 -l eth0 -R "$clients" -r "$rate" -p "$seconds" 10.77.0.1 >"$work/out" 2>&1 || :
		cpu=$(awk '{ printf "%.1f", ($14 + $15) / 100 }' "/proc/$pid/stat")
		awk -v s=$s -v cpu="$cpu" -v load="$load" '/^Rate:/ { rate = $2 } /^avg delay:/ { d[++n] = $3 }
			END { printf "| %s | %.0f | %.1f | %.1f | %s | %s |\n", s, rate, d[1], d[2], cpu, load }' "$work/out"
		kill "$pid"
		wait "$pid" 2>/dev/null || :
		pid=
	done
done
