package localcmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// TestStoreOnNFS keeps a store on NFS 4.2, server and client in one Linux: captures, one of them killed and one during which the
// server goes away and comes again, a second writer from another mount, repack, check, deploy.
func TestStoreOnNFS(t *testing.T) {
	night.Only(t)
	t.Parallel()
	dir, err := os.MkdirTemp("/var/tmp", "mimeo-nfs-") // its own /tmp hides the machine's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	agent, served, target := filepath.Join(dir, "mimeo-agent"), filepath.Join(dir, "served.img"), filepath.Join(dir, "target.img")
	build := exec.Command("go", "build", "-o", agent, "mimeo/cmd/mimeo-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sh(t, `truncate -s 600M "$1"; mke2fs -q -F -t ext4 "$1"; truncate -s 100M "$2"`, served, target)
	said := uml.Run(t, `A=`+agent+`; S="--store dir:/run/nfs/store"
		ip link set lo up; modprobe -a nfsd nfs nfsv4; mount -t tmpfs tmp /var/lib/nfs; mkdir -p /var/lib/nfs/sm /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcltrack; touch /var/lib/nfs/etab /var/lib/nfs/rmtab
		mkdir /run/srv /run/nfs /run/other; mount /dev/ubda /run/srv; mount -t nfsd nfsd /proc/fs/nfsd
		echo 10 >/proc/fs/nfsd/nfsv4leasetime; echo 10 >/proc/fs/nfsd/nfsv4gracetime
		exportfs -o rw,sync,no_root_squash,fsid=0,insecure,no_subtree_check 127.0.0.1:/run/srv; rpc.mountd -N 3; rpc.nfsd -N 3 2
		mount -t nfs -o vers=4.2 127.0.0.1:/ /run/nfs; mount -t nfs -o vers=4.2,nosharecache 127.0.0.1:/ /run/other
		mkdir /run/tree; head -c 24M /dev/urandom | split -d -b 600000 - /run/tree/f
		truncate -s 60M /run/disk; mke2fs -q -F -t ext4 -d /run/tree /run/disk
		$A capture /run/disk $S --image a 2>/run/err || { cat /run/err; exit 1; }
		flock -o -x /run/other/store/lock sleep 60 & holder=$!; sleep 2
		if $A capture /run/disk $S --image a >/run/err 2>&1; then echo "two writers"; exit 1; fi; grep -i lock /run/err
		kill $holder; wait $holder || true; sleep 1
		head -c 9000000 /dev/urandom >/run/tree/new; truncate -s 80M /run/disk2; mke2fs -q -F -t ext4 -d /run/tree /run/disk2
		$A capture /run/disk2 $S --image b >/dev/null 2>&1 & sleep 0.4; kill -9 $! && echo "killed"; sleep 1
		$A capture /run/disk2 $S --image b 2>/run/err || { cat /run/err; exit 1; }
		truncate -s 90M /run/disk3; mke2fs -q -F -t ext4 -d /run/tree /run/disk3
		rpc.nfsd 0; echo "server away"; ($A capture /run/disk3 $S --image c 2>/run/err || cat /run/err) & sleep 2; rpc.nfsd -N 3 2; wait $!
		$A store repack $S --level 3 2>/run/err || { cat /run/err; exit 1; }
		$A store check --read-data $S 2>/run/err || { cat /run/err; exit 1; }
		for i in a b c; do $A deploy $i /dev/ubdb $S --force --grow none >/dev/null 2>/run/err || { cat /run/err; exit 1; }; e2fsck -fn /dev/ubdb >/run/log 2>&1 || { cat /run/log; exit 1; }; mount -o ro,noload /dev/ubdb /run/mnt
			(cd /run/mnt; find . -type f -exec sha256sum {} + | sort -k2 | sha256sum); umount /run/mnt; done
		(cd /run/tree; find . -type f -exec sha256sum {} + | sort -k2 | sha256sum)
		ls /run/nfs/store/tmp; umount /run/nfs /run/other; rpc.nfsd 0`, served, target)
	sums := map[string]int{}
	for line := range strings.Lines(said) {
		if s, ok := strings.CutSuffix(strings.TrimSpace(line), "  -"); ok {
			sums[s]++
		}
	}
	most := 0
	for _, n := range sums {
		most = max(most, n)
	}
	if most != 3 || len(sums) != 2 || !strings.Contains(said, "another process has the store open") || !strings.Contains(said, "all is whole") {
		t.Error(said)
	}
}
