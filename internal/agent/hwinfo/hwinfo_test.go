package hwinfo

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// tree makes the files and links that a list in testdata names, "PATH = CONTENT" and "PATH -> TARGET" in the order of the
// list, and returns their root.
func tree(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := t.TempDir()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line := sc.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		path, to, link := strings.Cut(line, " -> ")
		content := ""
		if !link {
			var ok bool
			if path, content, ok = strings.Cut(line, " = "); !ok {
				t.Fatalf("%s: %q", name, line)
			}
			if content, err = strconv.Unquote(`"` + content + `"`); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
		}
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(content+"\n"), 0o644)
			if strings.Contains(content, "\x00") {
				err = os.WriteFile(path, []byte(content), 0o644) // binary files of sysfs end with no line break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		tree, mac string
		want      api.Hardware
	}{
		{"vm", "52:54:00:12:34:56", api.Hardware{
			Vendor: "QEMU", Product: "Standard PC (Q35 + ICH9, 2009)", UUID: "5d3c2b1a-0000-4000-8000-0123456789ab",
			BIOS: "SeaBIOS 1.16.2-debian-1.16.2-1 04/01/2014", CPU: "QEMU Virtual CPU version 2.5+", CPUs: 3, Memory: 486304 << 10,
			NICs: []api.HardwareNIC{{Name: "eth0", MAC: "52:54:00:12:34:56", Driver: "virtio_net", Link: true, Booted: true}},
			Disks: []api.Disk{
				{Name: "sda", Size: 1048576000, SectorSize: 512, Model: "QEMU HARDDISK", Serial: "QM0001", Bus: "sata", ByPath: "pci-0000:00:1f.2-ata-1.0"},
				{Name: "vda", Size: 3 << 30, SectorSize: 512, Serial: "n01-root", Bus: "virtio", ByPath: "pci-0000:00:03.0", Rotational: true},
			}}},
		{"server", "", api.Hardware{
			Vendor: "Dell Inc.", Product: "PowerEdge R650", Serial: "ABC1234", BIOS: "Dell Inc.", UEFI: true, SecureBoot: true, NICs: []api.HardwareNIC{},
			Disks: []api.Disk{
				{Name: "nvme0n1", Size: 1953525168 * 512, SectorSize: 512, Model: "Samsung SSD 970 EVO Plus 1TB", Serial: "S4EVNF0M123456", WWN: "0x0025385b11b2d5e1", Bus: "nvme", ByPath: "pci-0000:03:00.0-nvme-1"},
				{Name: "nvme1n1", Size: 7814037168 * 512, SectorSize: 4096, Model: "Micron_9300", Serial: "20342A", Bus: "nvme"},
				{Name: "sda", Size: 2344225968 * 512, SectorSize: 512, Model: "SEAGATE ST1200MM0099", Serial: "WFK0ABCD0000K000XXXX", WWN: "0x5000c500a1b2c3d4", Bus: "scsi", ByPath: "pci-0000:18:00.0-sas-phy3-lun-0", Rotational: true},
				{Name: "sdb", Size: 500118192 * 512, SectorSize: 512, Bus: "sata", ByPath: "pci-0000:00:17.0-ata-3.0"},
				{Name: "sdc", Size: 60062500 * 512, SectorSize: 512, Serial: "4C530001", Bus: "usb", ByPath: "pci-0000:00:14.0-usb-0:4:1.0-scsi-0:0:0:0", Removable: true},
			}}},
		{"board", "", api.Hardware{
			Vendor: "raspberrypi", Product: "Raspberry Pi 4 Model B Rev 1.4", Serial: "10000000abcdef01",
			NICs:  []api.HardwareNIC{{Name: "eth0", MAC: "dc:a6:32:01:02:03"}},
			Disks: []api.Disk{{Name: "mmcblk0", Size: 62333952 * 512, SectorSize: 512, Model: "SD32G", Serial: "1a2b3c4d", Bus: "mmc", ByPath: "platform-fe340000.mmc"}},
		}},
	} {
		c.want.Arch = Arch()
		if diff := cmp.Diff(c.want, Read(tree(t, c.tree), c.mac)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.tree, diff)
		}
	}
}

func TestThisMachine(t *testing.T) {
	h := Read("/", "")
	if h.CPUs < 1 || h.Memory < 64<<20 || h.Arch == "" {
		t.Errorf("this machine: %+v", h)
	}
	for _, d := range h.Disks {
		b, err := os.ReadFile("/sys/block/" + d.Name + "/size")
		if n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil || n*512 != d.Size {
			t.Errorf("disk %s: size %d, sysfs says %s", d.Name, d.Size, b)
		}
	}
	if err := Print(&strings.Builder{}, h); err != nil {
		t.Error(err)
	}
}

func TestChooseDisk(t *testing.T) {
	disks := Disks(tree(t, "server"))
	vm := Disks(tree(t, "vm"))
	one := []Disk{vm[1]}
	stick := slices.Clone(disks[4:])
	for _, c := range []struct {
		what  string
		rule  node.DiskRule
		disks []Disk
		want  string // name, or a part of the error
	}{
		{"the only one", node.DiskRule{}, one, "vda"},
		{"several and no rule", node.DiskRule{}, vm, "exactly one fixed disk: that matches 2 disks of this node, not one: sda, 1049 MB"},
		{"a removable one is not chosen by itself", node.DiskRule{}, stick, "matches none of the disks of this node: sdc"},
		{"one fixed and one removable", node.DiskRule{}, append(one, stick...), "vda"},
		{"no disk", node.DiskRule{}, nil, "no disk was found"},
		{"serial", node.DiskRule{Serial: "S4EVNF0M123456"}, disks, "nvme0n1"},
		{"serial in other letters", node.DiskRule{Serial: " s4evnf0m123456"}, disks, "nvme0n1"},
		{"a part of a serial", node.DiskRule{Serial: "S4EV"}, disks, "disk rule disk.serial=S4EV matches none"},
		{"removable by its serial", node.DiskRule{Serial: "4C530001"}, disks, "sdc"},
		{"WWN as the kernel has it", node.DiskRule{WWN: "naa.5000c500a1b2c3d4"}, disks, "sda"},
		{"WWN as by-id has it", node.DiskRule{WWN: "wwn-0x5000C500A1B2C3D4"}, disks, "sda"},
		{"WWN of NVMe", node.DiskRule{WWN: "nvme-eui.0025385b11b2d5e1"}, disks, "nvme0n1"},
		{"bus of two", node.DiskRule{Bus: "nvme"}, disks, "matches 2 disks"},
		{"bus and size", node.DiskRule{Bus: "nvme", MinSize: 2e12}, disks, "nvme1n1"},
		{"bus and largest size", node.DiskRule{Bus: "NVMe", MaxSize: 2e12}, disks, "nvme0n1"},
		{"size at its edge", node.DiskRule{MinSize: 500118192 * 512, MaxSize: 500118192 * 512}, disks, "sdb"},
		{"by-path", node.DiskRule{ByPath: "pci-0000:18:00.0-sas-phy3-lun-0"}, disks, "sda"},
		{"by-path with its folder, in the old form", node.DiskRule{ByPath: "/dev/disk/by-path/pci-0000:00:17.0-ata-3"}, disks, "sdb"},
		{"all must hold", node.DiskRule{Serial: "S4EVNF0M123456", Bus: "sata"}, disks, "matches none"},
		{"a disk without WWN is none with an empty one", node.DiskRule{WWN: "0x"}, disks, "matches none"},
	} {
		got, err := ChooseDisk(c.rule, c.disks)
		if err == nil {
			if got.Name != c.want {
				t.Errorf("%s: got %s, want %s", c.what, got.Name, c.want)
			}
			continue
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %s", c.what, err, c.want)
		}
	}
}

func TestImageDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n01.img")
	if err := os.WriteFile(path, make([]byte, 4096+100), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := ImageDisk(path)
	if err != nil || d.Size != 4096 || d.Serial != "n01.img" || d.Path != path {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := ImageDisk(filepath.Dir(path)); err == nil {
		t.Error("a folder passed for a disk")
	}
	if d, err = ChooseDisk(node.DiskRule{}, []Disk{d}); err != nil || fmt.Sprint(d.Image) != "true" {
		t.Errorf("choose it: %+v, %v", d, err)
	}
}
