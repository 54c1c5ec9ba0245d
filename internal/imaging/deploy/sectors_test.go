package deploy

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/store/mem"
)

// TestOtherSectors deploys what allows it between disks with sectors of 512 and of 4096 bytes, and refuses the rest with its reason.
func TestOtherSectors(t *testing.T) {
	const ext = `mke2fs -q -F -t ext4 -b 4096 -d /etc/default "$1p"`
	for _, tc := range []struct {
		name, table, make string
		why               string // "": it can
	}{
		{"ext4", "label: gpt\nstart=1MiB,size=30MiB,name=root\nstart=31MiB,size=10MiB,type=swap\n", ext, ""},
		{"small blocks", "label: gpt\nstart=1MiB,size=30MiB\n", `mke2fs -q -F -t ext4 -b 1024 "$1p"`, "partition 1 (ext4) has blocks of 1024 bytes"},
		{"fat", "label: gpt\nstart=1MiB,size=30MiB\n", `mkfs.fat "$1p" >/dev/null`, "may count in sectors itself"},
		{"mbr", "label: dos\nstart=1MiB,size=30MiB\n", ext, "its MBR counts in sectors of"},
		{"unaligned", "label: gpt\nunit: sectors\nstart=2048,size=61440\nstart=65537,size=2047\n", ext, "partition 2 does not begin and end"},
	} {
		for _, sectors := range [][2]string{{"512", "4096"}, {"4096", "512"}} {
			if sectors[0] == "4096" && tc.name != "ext4" {
				continue
			}
			t.Run(tc.name+" from "+sectors[0], func(t *testing.T) {
				from := imageFile(t, 48, "")
				dev, detach := loop(t, from, sectors[0])
				command(t, tc.table, "sfdisk", "-q", dev)
				command(t, "", "sh", "-euc", `truncate -s 30M "$1p"; `+tc.make+`; dd if="$1p" of="$1" bs=1M seek=1 conv=notrunc status=none
					[ -z "$2" ] || { truncate -s 10M "$1s"; mkswap -q "$1s"; dd if="$1s" of="$1" bs=1M seek=31 conv=notrunc status=none; }`, "sh", from, map[bool]string{true: "swap"}[tc.why == ""])
				st := mem.New()
				detach()
				dev, detach = loop(t, from, sectors[0])
				m, _ := captured(t, dev, st, capture.Options{})
				detach()
				to := imageFile(t, 64, "")
				dev, detach = loop(t, to, sectors[1])
				d, err := disk.OpenExclusive(dev, disk.Options{})
				if err != nil {
					t.Fatal(err)
				}
				res, err := Run(t.Context(), st, m, Disk{d}, Options{Verify: true})
				d.Close()
				if tc.why != "" {
					var no *SectorError
					if !errors.As(err, &no) || res.Touched || !strings.Contains(err.Error(), tc.why) {
						t.Errorf("%v, touched %v", err, res.Touched)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if out, err := exec.Command("sfdisk", "-V", dev).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors") {
					t.Errorf("sfdisk: %s", out)
				}
				if out := command(t, "", "sfdisk", "-d", dev); !strings.Contains(out, `name="root"`) || !strings.Contains(out, "sector-size: "+sectors[1]) {
					t.Error(out)
				}
				if out := command(t, "", "sgdisk", "-v", dev); !strings.Contains(out, "No problems found") {
					t.Error(out)
				}
				detach()
				command(t, "", "sh", "-euc", `dev=$(losetup -f --show -b $2 -o 1048576 --sizelimit $((30 << 20)) "$1"); mkdir "$1.mnt"; trap 'umount "$1.mnt" || true; losetup -d $dev' EXIT
					e2fsck -fn $dev; mount -o ro $dev "$1.mnt"; rmdir "$1.mnt/lost+found" 2>/dev/null || true; diff -r -x lost+found /etc/default "$1.mnt"; test "$(blkid -p -s TYPE -o value -O 32505856 "$1")" = swap`, "sh", to, sectors[1])
			})
		}
	}
}
