package localcmd_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestExport writes an image in every format, and has qemu-img compare each with the disk that a deploy writes.
func TestExport(t *testing.T) {
	disk, tree := golden(t, 20)
	dir := t.TempDir()
	store := "dir:" + filepath.Join(dir, "store")
	var c captured
	ok(t, &c, "capture", disk, "--store", store, "--image", "golden")
	deployedTo := filepath.Join(dir, "deployed.img")
	var d deployed
	ok(t, &d, "deploy", "golden", deployedTo, "--store", store)

	type done struct {
		Image, ID, Path, Format string
		Rev                     int
		Size, Used, File        int64
		Seconds                 float64
	}
	var e done
	for name, format := range map[string]string{"a.raw": "raw", "a.IMG": "raw", "a.qcow2": "qcow2", "a.vmdk": "vmdk", "a.vhdx": "vhdx"} {
		path := filepath.Join(dir, name)
		ok(t, &e, "export", "golden@1", path, "--store", store)
		if e.Format != format || e.Path != path || e.Size != 96<<20 || e.Image != "golden" || e.Rev != 1 || e.ID != c.ID || e.Used != c.Used-c.Zero || e.File < e.Used || e.File > e.Used+8<<20 {
			t.Errorf("%s: %+v", name, e)
		}
		tool(t, "", "qemu-img", "compare", "-f", format, "-F", "raw", path, deployedTo)
	}
	sameTree(t, filepath.Join(dir, "a.raw"), tree)

	path := filepath.Join(dir, "whatever")
	ok(t, &e, "export", "golden", path, "--format", "qcow2", "--compress", "--store", store)
	tool(t, "", "qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, deployedTo)

	folder := filepath.Join(dir, "folder")
	var z struct {
		done
		Parts []struct{ Device, Type, How string }
		Notes []string
	}
	ok(t, &z, "export", "golden", folder, "--format", "clonezilla", "--store", store)
	if len(z.Parts) != 1 || z.Parts[0].Device != "sda1" || z.Parts[0].How != "partclone" || z.Format != "clonezilla" || z.File < 20<<20 {
		t.Errorf("%+v", z)
	}
	back := empty(t, filepath.Join(dir, "back.img"), 96)
	tool(t, "", "sh", "-ec", `cd "$1"; sfdisk -q --force "$2" < sda-pt.sf
		cat sda1.ext4-ptcl-img.zst.* | zstd -dc | partclone.restore -q -C -W -L "$2.log" -s - -o "$2.part"
		dd if="$2.part" of="$2" bs=1M seek=1 conv=notrunc status=none; rm "$2.part" "$2.log"`, "sh", folder, back)
	sameTree(t, back, tree)
	fails(t, 4, []string{"export", "golden", folder, "--format", "clonezilla", "--store", store}, "there already")
	fails(t, 2, []string{"export", "golden", folder, "--format", "clonezilla", "--force", "--store", store}, "never written over")

	r := run(t, "export", "golden", "-", "--store", store)
	want, err := os.ReadFile(deployedTo)
	if err != nil {
		t.Fatal(err)
	}
	if r.code != 0 || !bytes.Equal([]byte(r.out), want) {
		t.Errorf("exit %d, %d bytes\n%s", r.code, len(r.out), r.err)
	}

	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fails(t, 4, []string{"export", "golden", path, "--format", "raw", "--store", store}, "there already", "--force")
	ok(t, &e, "export", "golden", path, "--format", "raw", "--force", "--store", store)
	tool(t, "", "qemu-img", "compare", "-f", "raw", "-F", "raw", path, deployedTo)
	fails(t, 3, []string{"export", "golden@7", path, "--format", "raw", "--force", "--store", store}, "golden")
	fails(t, 3, []string{"export", "golden", filepath.Join(dir, "no", "b.raw"), "--store", store}, "no folder")
	fails(t, 2, []string{"export", "golden", filepath.Join(dir, "b"), "--store", store}, "which format", "--format")
	fails(t, 2, []string{"export", "golden", filepath.Join(dir, "b"), "--format", "vdi", "--store", store}, "vdi")
	fails(t, 2, []string{"export", "golden", filepath.Join(dir, "b.raw"), "--compress", "--store", store}, "qcow2")
	fails(t, 2, []string{"export", "golden", "-", "--format", "qcow2", "--store", store}, "raw")

	// A damaged store gives an error, and no file.
	packs, err := filepath.Glob(filepath.Join(dir, "store", "packs", "*.pack"))
	if err != nil || len(packs) == 0 {
		t.Fatal(err, packs)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(packs[0], b, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"raw", "qcow2", "vmdk", "clonezilla"} {
		fails(t, 1, []string{"export", "golden", filepath.Join(dir, "lost"), "--format", format, "--store", store}, "chunk")
	}
	after, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("%d files, were %d: %v", len(after), len(before), after)
	}
}
