package localcmd

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/disk"
)

// tableDisk makes a disk with a GPT, an ext4 filesystem and a swap area.
func tableDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	for _, step := range []struct{ stdin, cmd string }{
		{"", "truncate -s 48M DISK"},
		{"label: gpt\nsize=24MiB,name=root\nsize=8MiB,type=swap\n", "sfdisk -q DISK"},
		{"", "truncate -s 24M DIR/fs"},
		{"", "mke2fs -q -F -t ext4 -L root -U 0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa DIR/fs"},
		{"", "dd if=DIR/fs of=DISK bs=1M seek=1 conv=notrunc status=none"},
		{"", "truncate -s 8M DIR/swap"},
		{"", "mkswap -q -L swp DIR/swap"},
		{"", "dd if=DIR/swap of=DISK bs=1M seek=25 conv=notrunc status=none"},
	} {
		w := strings.Fields(strings.NewReplacer("DISK", path, "DIR", dir).Replace(step.cmd))
		cmd := exec.Command(w[0], w[1:]...)
		cmd.Stdin = strings.NewReader(step.stdin)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", step.cmd, err, out)
		}
	}
	return path
}

func TestMapJSON(t *testing.T) {
	var out, errw bytes.Buffer
	if err := runMap(&out, &errw, tableDisk(t), disk.Options{}, true); err != nil {
		t.Fatal(err)
	}
	if errw.Len() > 0 {
		t.Errorf("said %q", errw.String())
	}
	var m struct {
		Disk  struct{ Size int64 }
		Table struct {
			Kind       string
			Partitions []struct{ Number int }
		}
		Volumes []struct {
			Partition         int
			Type, UUID, Label string
			Method            string
			UsedBytes         int64 `json:"used_bytes"`
			Off, Len          int64
			Used              [][2]int64
			Notes             []string
		}
		Outside, Used [][2]int64
		UsedBytes     int64 `json:"used_bytes"`
		Notes         []string
	}
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	sum := func(l [][2]int64) (n int64) {
		for _, e := range l {
			n += e[1]
		}
		return n
	}
	if m.Disk.Size != 48<<20 || m.Table.Kind != "gpt" || len(m.Table.Partitions) != 2 || len(m.Volumes) != 2 || m.Notes == nil {
		t.Fatalf("%+v", m)
	}
	root, swap := m.Volumes[0], m.Volumes[1]
	if root.Type != "ext4" || root.UUID != "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa" || root.Label != "root" || root.Method != "used" || root.Partition != 1 {
		t.Errorf("%+v", root)
	}
	if swap.Type != "swap" || swap.Label != "swp" || swap.Method != "head" || len(swap.Used) != 1 || swap.Used[0] != [2]int64{25 << 20, 4096} {
		t.Errorf("%+v", swap)
	}
	if sum(root.Used) != root.UsedBytes || root.Used[0][0] != 1<<20 || sum(m.Used) != m.UsedBytes || sum(m.Outside)+root.UsedBytes+swap.UsedBytes != m.UsedBytes {
		t.Errorf("sums: %d, %d, %d", root.UsedBytes, m.UsedBytes, sum(m.Used))
	}
}

func TestMapForPeople(t *testing.T) {
	var out, errw bytes.Buffer
	if err := runMap(&out, &errw, tableDisk(t), disk.Options{}, false); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{"48.0 MiB, sectors of 512 bytes, GPT ", "Linux swap", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa", "a capture reads ", "head", "used"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if err := runMap(&out, &errw, "/nowhere", disk.Options{}, false); err == nil {
		t.Error("no disk is no error")
	}
	if err := runMap(&out, &errw, "/dev/null", disk.Options{SectorSize: 7}, false); err == nil {
		t.Error("sectors of 7 bytes are no error")
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31mb\nÄ"); got != "a?[31mb?Ä" {
		t.Errorf("%q", got)
	}
}
