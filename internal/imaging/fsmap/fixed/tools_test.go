package fixed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSquashfs(t *testing.T) {
	many := sampleTree(t)
	for i := range 3000 {
		path := filepath.Join(many, fmt.Sprintf("owner%d", i))
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 10_000+i, 20_000+i); err != nil {
			t.Fatal(err)
		}
		if i < 700 {
			value := []byte(strings.Repeat(fmt.Sprint(i), 40))
			if err := unix.Setxattr(path, "user.mimeo", value, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	few := sampleTree(t)
	for _, v := range []struct{ dir, args string }{
		{few, ""}, {few, "-comp xz"}, {few, "-comp zstd -b 1M"}, {few, "-comp lz4 -b 4096"}, {few, "-comp lzo"},
		{few, "-noI -noD -noF -noX"}, {few, "-no-fragments -no-exports"}, {few, "-always-use-fragments -nopad"},
		{few, "-no-xattrs -all-root"}, {many, ""}, {many, "-noI"}, {many, "-no-xattrs"}, {many, "-comp zstd -no-exports"},
	} {
		name := v.args
		if v.dir == many {
			name = "many " + name
		}
		t.Run(name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			tool(t, "mksquashfs", append([]string{v.dir, img, "-no-progress", "-quiet"}, strings.Fields(v.args)...)...)
			// "Filesystem size 1234 bytes (1.2 Kbytes / 0.00 Mbytes)"
			length := number(t, tool(t, "unsquashfs", "-s", img), "Filesystem size")
			judge(t, img, v.dir, length, func(img, dir string) { tool(t, "unsquashfs", "-no-progress", "-d", dir, img) })
		})
	}
	t.Run("appended", func(t *testing.T) {
		img := filepath.Join(t.TempDir(), "img")
		half := filepath.Join(many, "d0")
		tool(t, "mksquashfs", half, img, "-no-progress", "-quiet")
		tool(t, "mksquashfs", many, img, "-no-progress", "-quiet")
		dir := filepath.Join(t.TempDir(), "want")
		tool(t, "unsquashfs", "-no-progress", "-d", dir, img)
		length := number(t, tool(t, "unsquashfs", "-s", img), "Filesystem size")
		judge(t, img, dir, length, func(img, dir string) { tool(t, "unsquashfs", "-no-progress", "-d", dir, img) })
	})
}

func TestErofs(t *testing.T) {
	dir := sampleTree(t)
	for _, args := range []string{
		"", "-zlz4hc,9", "-zlz4 -C65536", "-zlz4 -Eztailpacking", "-zlz4 -Elegacy-compress",
		"-Eforce-inode-extended", "-Enoinline_data -x-1",
	} {
		t.Run(args, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			all := []string{"-U", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa"}
			tool(t, "mkfs.erofs", append(append(all, strings.Fields(args)...), img, dir)...)
			// This version makes blocks of 4 KiB only.
			length := number(t, tool(t, "dump.erofs", "-s", img), "Filesystem blocks:") * 4096
			judge(t, img, dir, length, func(img, dir string) { tool(t, "fsck.erofs", "--extract="+dir, img) })
		})
	}
}

// extractISO gets the files by their names of Rock Ridge.
func extractISO(t *testing.T) func(img, dir string) {
	return func(img, dir string) {
		tool(t, "xorriso", "-abort_on", "FAILURE", "-osirrox", "on", "-indev", "stdio:"+img, "-extract", "/", dir)
		tool(t, "chmod", "-R", "u+rwX", dir)
	}
}

func sizeOfISO(t *testing.T, img string) int64 {
	out := tool(t, "isoinfo", "-d", "-i", img)
	return number(t, out, "Volume size is:") * number(t, out, "Logical block size is:")
}

func TestISO9660(t *testing.T) {
	dir := sampleTree(t)
	boot := filepath.Join(dir, "boot.img")
	if err := os.WriteFile(boot, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ prog, args string }{
		{"genisoimage", "-R -V SHORT"},
		{"genisoimage", "-R -J -V MORE-THAN-SIXTEEN-CHARACTERS"},
		{"genisoimage", "-r -J -V Übergrößen"},
		{"genisoimage", "-R -iso-level 4 -V LEVEL4"},
		{"genisoimage", "-R -J -b boot.img -c boot.cat -no-emul-boot -V BOOT"},
		{"genisoimage", "-R -no-pad -T -V TABLES"},
		{"xorrisofs", "-R -J -V XORRISO"},
		{"xorrisofs", "-R -b boot.img -c boot.cat -no-emul-boot -boot-load-size 4 -partition_offset 16 -V PARTITION"},
		{"xorrisofs", "-R -J -iso-level 3 -joliet-long -V A_rather_long_name"},
	} {
		t.Run(v.prog+" "+v.args, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			tool(t, v.prog, append(append([]string{"-quiet", "-o", img}, strings.Fields(v.args)...), dir)...)
			want := filepath.Join(t.TempDir(), "want")
			extractISO(t)(img, want)
			judge(t, img, want, sizeOfISO(t, img), extractISO(t))
		})
	}
	t.Run("grown", func(t *testing.T) {
		img := filepath.Join(t.TempDir(), "img")
		tool(t, "xorrisofs", "-quiet", "-R", "-o", img, filepath.Join(dir, "d0"))
		tool(t, "xorriso", "-abort_on", "FAILURE", "-dev", "stdio:"+img, "-map", dir, "/more", "-commit")
		want := filepath.Join(t.TempDir(), "want")
		extractISO(t)(img, want)
		judge(t, img, want, sizeOfISO(t, img), extractISO(t))
	})
	for _, args := range []string{"-udf -J -R", "-hfs -R"} {
		t.Run(args, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			tool(t, "genisoimage", append(append([]string{"-quiet", "-o", img}, strings.Fields(args)...), dir)...)
			facts, _ := mapImage(t, onVolume(t, img))
			if strings.Contains(args, "udf") != (facts.Whole != "") {
				t.Errorf("%+v", facts)
			}
		})
	}
	// The first descriptors know nothing of a session that was appended by hand.
	t.Run("session", func(t *testing.T) {
		img, next := filepath.Join(t.TempDir(), "img"), filepath.Join(t.TempDir(), "next")
		tool(t, "genisoimage", "-quiet", "-R", "-o", img, filepath.Join(dir, "d0"))
		st, err := os.Stat(img)
		if err != nil {
			t.Fatal(err)
		}
		at := (st.Size()/isoSector + 32) &^ 31
		tool(t, "genisoimage", "-quiet", "-R", "-o", next, "-M", img, "-C", fmt.Sprintf("0,%d", at), dir)
		tool(t, "dd", "if="+next, "of="+img, "bs=2048", "conv=notrunc", "status=none", fmt.Sprintf("seek=%d", at))
		if facts, _ := mapImage(t, onVolume(t, img)); !strings.Contains(facts.Whole, "another session") {
			t.Errorf("%+v", facts)
		}
	})
}
