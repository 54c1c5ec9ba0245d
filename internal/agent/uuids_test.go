package agent

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// uuidDisk makes a disk with one of each filesystem that can get another UUID, and a root that names them all.
const uuidDisk = `set -eu; cd "$1"; u=6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a; truncate -s 700M n01.img
sgdisk -og -n 1:1M:+33M -n 2:34M:+8M -t 2:8200 -n 3:42M:+310M -n 4:352M:+120M -n 5:472M:+64M n01.img >/dev/null
dir=root; mkdir -p $dir/etc/default $dir/bin $dir/proc $dir/sys $dir/dev $dir/run $dir/boot/grub $dir/boot/efi
cp "$(command -v busybox)" $dir/bin/busybox; ln -s busybox $dir/bin/sh; ln -s busybox $dir/bin/echo
put() { dd if=fs of=n01.img bs=1M seek=$1 conv=notrunc,sparse status=none; rm fs; }
truncate -s 33M fs; mkfs.vfat -F 32 -s 1 -i 6D1E0C1A fs >/dev/null; put 1
truncate -s 8M fs; mkswap -q -U ${u}01 fs >/dev/null; put 34
truncate -s 310M fs; mkfs.xfs -q -m uuid=${u}02 fs; put 42
truncate -s 120M fs; mkfs.btrfs -q -U ${u}03 fs; put 352
for n in 3 4; do sgdisk -i $n n01.img | sed -n 's/^Partition unique GUID: //p' | tr A-F a-f >guid$n; done
printf 'UUID=6D1E-0C1A /boot/efi vfat defaults 0 1\nUUID=%s none swap sw 0 0\nUUID=%s /srv xfs defaults 0 2\nPARTUUID=%s /home btrfs defaults 0 2\nUUID=%s / ext4 defaults 0 1\n' ${u}01 ${u}02 "$(cat guid4)" ${u}04 >$dir/etc/fstab
echo "menuentry_id_option 'gnulinux-simple-${u}04' root=UUID=${u}04 resume=UUID=${u}01 not=x${u}04" >$dir/boot/grub/grub.cfg
mke2fs -q -t ext4 -U ${u}04 -d $dir fs 64M; put 472`

// TestNewUUIDs deploys a disk twice with new UUIDs of all, and lets blkid and the filesystems' own checkers look at it.
func TestNewUUIDs(t *testing.T) {
	quick(t)
	dir := t.TempDir()
	if out, err := exec.Command("sh", "-c", uuidDisk, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := newFakeServer(t)
	id := capture1(t, s, filepath.Join(dir, "n01.img"))
	before := identities(t, filepath.Join(dir, "n01.img"))
	target := emptyDisk(t, 700)
	for range 2 {
		task := deployTask(id)
		task.UUIDs = node.UUIDsAll
		s.mu.Lock()
		s.tasks = []api.Task{task}
		s.mu.Unlock()
		if _, err := Run(t.Context(), s.config(t, target)); err != nil {
			t.Fatal(err)
		}
		if d := s.last(t); !d.OK {
			t.Fatalf("%+v", d.Error)
		}
		now := identities(t, target)
		if len(now) != len(before) || len(now) != 6+5 {
			t.Fatalf("%q\n%q", before, now)
		}
		for what, id := range now {
			if id == before[what] || len(id) != len(before[what]) {
				t.Errorf("%s: %s, was %s", what, id, before[what])
			}
		}
		out, err := exec.Command("sh", "-euc", `cd "$1"; sgdisk -v n02.img | grep -q "No problems"; cut() { dd if=n02.img of=fs bs=1M skip=$1 count=$2 conv=sparse status=none; }
cut 1 33; fsck.vfat -n fs >&2; cut 42 310; xfs_repair -n -f fs >&2; cut 352 120; btrfs check fs >&2; dd if=n02.img of=fs bs=1M skip=472 status=none; e2fsck -fn fs >&2; debugfs -R "cat /etc/fstab" fs; debugfs -R "cat /boot/grub/grub.cfg" fs`, "sh", filepath.Dir(target)).Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, err.(*exec.ExitError).Stderr)
		}
		want := "UUID=" + now["fs 1"] + " /boot/efi vfat defaults 0 1\nUUID=" + now["fs 2"] + " none swap sw 0 0\nUUID=" + now["fs 3"] + " /srv xfs defaults 0 2\nPARTUUID=" + now["part 4"] +
			" /home btrfs defaults 0 2\nUUID=" + now["fs 5"] + " / ext4 defaults 0 1\nmenuentry_id_option 'gnulinux-simple-" + now["fs 5"] + "' root=UUID=" + now["fs 5"] + " resume=UUID=" + now["fs 2"] + " not=x" + before["fs 5"] + "\n"
		if string(out) != want {
			t.Errorf("got\n%swant\n%s", out, want)
		}
	}
}

// identities asks sfdisk and blkid.
func identities(t *testing.T, path string) map[string]string {
	t.Helper()
	out, err := exec.Command("sh", "-euc", `sfdisk -d "$1" | sed -n 's/^label-id: /disk /p'; i=0; for at in 1:33 34:8 42:310 352:120 472:64; do i=$((i+1))
echo "part $i $(sfdisk --part-uuid "$1" $i)"; echo "fs $i $(blkid -p -o value -s UUID -O $((${at%:*} << 20)) -S $((${at#*:} << 20)) "$1")"; done`, "sh", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ids := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(disk|(?:part|fs) \d) (.+)$`).FindAllStringSubmatch(string(out), -1) {
		ids[m[1]] = m[2]
		if strings.HasPrefix(m[1], "part") || m[1] == "disk" {
			ids[m[1]] = strings.ToLower(m[2])
		}
	}
	return ids
}

func TestUUIDsWithoutLinux(t *testing.T) {
	quick(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "n01.img")
	if out, err := exec.Command("sh", "-euc", `truncate -s 40M "$1"; mke2fs -q -F -t ext4 "$1"`, "sh", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := newFakeServer(t)
	task := deployTask(capture1(t, s, path))
	task.UUIDs = node.UUIDsFilesystems
	s.mu.Lock()
	s.tasks = []api.Task{task}
	s.mu.Unlock()
	if _, err := Run(t.Context(), s.config(t, emptyDisk(t, 40))); err != nil {
		t.Fatal(err)
	}
	if d := s.last(t); d.OK || d.Error.Code != "no_root" || !strings.Contains(d.Error.Hint, node.LabelUUIDs) {
		t.Errorf("%+v", d.Error)
	}
}
