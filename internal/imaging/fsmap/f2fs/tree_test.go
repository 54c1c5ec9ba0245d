package f2fs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/uml"
)

// listed is a line for each file that Tree finds.
func listed(t testing.TB, b []byte) map[string]string {
	t.Helper()
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	if err := tree.Walk(tr, "/", root, func(name string, f tree.File, err error) error {
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%x %d:%d %d %d", f.Mode, f.UID, f.GID, f.Links, f.Modified.UnixNano())
		switch f.Type() {
		case tree.Link:
			line += " -> " + f.Target
		case tree.Char, tree.Block:
			line += fmt.Sprintf(" %d %d", f.Device>>8&0xfff, f.Device&0xff|f.Device>>12&0xfff00)
		case tree.Regular:
			r, err := tr.Open(f.Inode)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			h := sha256.New()
			if n, err := io.Copy(h, io.NewSectionReader(r, 0, min(f.Size, 16<<20))); err != nil {
				return fmt.Errorf("%s: %d bytes of %d, %w", name, n, f.Size, err)
			}
			line += fmt.Sprintf(" %d %x", f.Size, h.Sum(nil))
		}
		out[name] = line
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// fillScript makes files of all kinds with the kernel, and prints what it sees of them.
const fillScript = `modprobe f2fs
list='
import hashlib, os, stat
for d, dirs, files in os.walk("."):
    for n in [""] * (d == ".") + dirs + files:
        p = os.path.join(d, n)
        st = os.lstat(p)
        line = "%x %d:%d %d %d" % (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_mtime_ns)
        if stat.S_ISLNK(st.st_mode): line += " -> " + os.readlink(p)
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode): line += " %d %d" % (os.major(st.st_rdev), os.minor(st.st_rdev))
        elif stat.S_ISREG(st.st_mode): line += " %d %s" % (st.st_size, hashlib.sha256(open(p, "rb").read(16 << 20)).hexdigest())
        print("= %s = %s" % (p, line))
'
fill='
import os, shutil
for d in "one/two", "many", "gone": os.makedirs(d)
def put(name, n): open(name, "wb").write(os.urandom(n))
for i in range(40):
    put("one/f%d" % i, i * i * 37); put("one/two/g%d" % i, i * 5000); put("gone/h%d" % i, 3)
for i in range(300): put("many/a file with a name of some length %d" % i, 0)
os.sync()
shutil.rmtree("gone")
for i in range(10, 20): os.remove("one/f%d" % i)
for i in range(20, 30): os.remove("one/two/g%d" % i)
for r in range(60): # they grow by turns
    for n in "abc":
        with open("grow" + n, "ab") as f:
            f.write(os.urandom(5000)); f.flush()
            if n == "a": os.fsync(f)
'
one() {
	mkdir -p /run/mnt/f && mount -t f2fs $2 $1 /run/mnt/f && cd /run/mnt/f
	python3 -c "$fill"
	# With holes, so far apart that nodes lie below nodes.
	for at in 0 3 1000 4000 9000 3000000 5000000; do head -c 4096 /dev/urandom | dd of=holes bs=4096 seek=$at conv=notrunc status=none; done
	truncate -s 30G holes; truncate -s 100000 hole; fallocate -l 200000 reserved; echo text | dd of=reserved conv=notrunc status=none
	ln one/two/g7 again; ln -s "a target, with ümläuts" link; ln -s $(head -c 3000 /dev/zero | tr '\0' x) long
	mknod char c 300 70000; mknod block b 8 1; mkfifo pipe; chown 1234:70000 growa; chmod 6751 growb; touch -d '2031-07-08 09:10:11.123456789' growc
	setfattr -n user.some -v thing grown 2>/dev/null || true
	cd /; umount /run/mnt/f
	mount -t f2fs -o ro $1 /run/mnt/f; cd /run/mnt/f
	python3 -c "$list"
	cd /; umount /run/mnt/f
}
`

// TestTree compares Tree with the kernel.
func TestTree(t *testing.T) {
	kinds := [][]string{{}, {"-O", "extra_attr,inode_checksum,sb_checksum,flexible_inline_xattr,inode_crtime"}, {"-i"}}
	options := []string{"", "", "-onoinline_data,noinline_dentry"}
	var imgs []string
	script := fillScript
	for i, args := range kinds {
		img := save(t, nil)
		if err := os.Truncate(img, 120<<20); err != nil {
			t.Fatal(err)
		}
		tool(t, ".", "mkfs.f2fs", append(args, img)...)
		imgs = append(imgs, img)
		script += fmt.Sprintf("echo '=== %d'; one /dev/ubd%c '%s'\n", i, 'a'+i, options[i])
	}
	out := uml.Run(t, script, imgs...)
	for i, part := range strings.Split(out, "\n=== ")[1:] {
		want := map[string]string{}
		for line := range strings.Lines(part) {
			if f := strings.SplitN(strings.TrimRight(line, "\n"), " = ", 2); len(f) == 2 && strings.HasPrefix(f[0], "= .") {
				want["/"+strings.TrimPrefix(strings.TrimPrefix(f[0], "= ."), "/")] = f[1]
			}
		}
		b, err := os.ReadFile(imgs[i])
		if err != nil {
			t.Fatal(err)
		}
		got := listed(t, b)
		if len(want) < 350 {
			t.Fatalf("%d: only %d files:\n%s", i, len(want), out)
		}
		for name, line := range want {
			if got[name] != line {
				t.Errorf("%d: %s:\n got %.200s\nwant %.200s", i, name, got[name], line)
			}
		}
		for name := range got {
			if want[name] == "" {
				t.Errorf("%d: %s is not there", i, name)
			}
		}
		checkPieces(t, imgs[i], b)
	}
}

// checkPieces holds pieces and claims against what is in use.
func checkPieces(t *testing.T, img string, b []byte) {
	t.Helper()
	_, used := mapImage(t, img)
	var all fact.Pieces
	if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, p := range all.List() {
		if total += p.Len; len(extent.Subtract(extent.List{{Off: p.Off, Len: p.Len}}, used)) > 0 {
			t.Errorf("%+v is not in use", p)
		}
	}
	if total < 3<<20 {
		t.Errorf("pieces of %d bytes", total)
	}
	var list []extent.Extent
	why, err := Claims(bytes.NewReader(b), int64(len(b)), func(e extent.Extent) { list = append(list, e) })
	if err != nil || why != "" {
		t.Fatal(why, err)
	}
	sum := int64(0)
	for _, e := range list {
		sum += e.Len
	}
	own := extent.FromUnsorted(list)
	if own.Bytes() != sum {
		t.Errorf("claims of %d bytes cover %d", sum, own.Bytes())
	}
	if d := extent.Subtract(own, used); len(d) > 0 {
		t.Errorf("claimed and not in use: %v", d)
	}
	if d := extent.Subtract(used, own); d.Bytes() > blockSize { // where the next node would be
		t.Errorf("in use and claimed by nothing: %v", d)
	}
}

// TestTreeOfOthers reads what older kernels left, a file that is compressed among it.
func TestTreeOfOthers(t *testing.T) {
	for _, name := range []string{"default", "features", "sections", "full"} {
		b := testdata(t, name)
		tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		root, err := tr.File(tr.Root())
		if err != nil {
			t.Fatal(err)
		}
		files := 0
		if err := tree.Walk(tr, "/", root, func(at string, f tree.File, err error) error {
			if err != nil {
				return err
			}
			if files++; f.Type() != tree.Regular {
				return nil
			}
			r, err := tr.Open(f.Inode)
			if errors.Is(err, errCompressed) && name == "features" {
				return nil
			} else if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, f.Size))
			return err
		}); err != nil || files < 20 {
			t.Errorf("%s: %d files, %v", name, files, err)
		}
	}
}

// TestTreeOfDamage reads the files of damaged filesystems: errors are fine, no more than that.
func TestTreeOfDamage(t *testing.T) {
	b := testdata(t, "default")
	f := open(t, b)
	var nodes []int64
	for seg, typ := range f.types {
		for n := int64(seg) * segBlocks; typ >= hotNode && n < int64(seg+1)*segBlocks; n++ {
			at := (int64(f.mainAt) + n) * blockSize
			if le.Uint32(b[at+footerOff:]) != 0 {
				nodes = append(nodes, at)
			}
		}
	}
	r := rand.New(rand.NewPCG(8, 8))
	failed := 0
	for range 200 {
		bad := bytes.Clone(b)
		for range 1 + r.IntN(60) {
			at := nodes[r.IntN(len(nodes))]
			if r.IntN(2) == 0 {
				bad[at+r.Int64N(480)] ^= 1 << r.IntN(8)
			} else {
				bad[at+r.Int64N(blockSize)] = byte(r.Uint32())
			}
		}
		if walkAll(t, bad) != nil {
			failed++
		}
	}
	if failed < 30 {
		t.Errorf("only %d damaged filesystems gave an error", failed)
	}
}

// walkAll reads all files, and returns the first error.
func walkAll(t testing.TB, b []byte) (first error) {
	if err := Pieces(bytes.NewReader(b), int64(len(b)), func(p fact.Piece) {
		if p.Off < 0 || p.Len <= 0 || p.At < 0 || p.Off+p.Len > int64(len(b)) {
			t.Fatalf("%+v", p)
		}
	}); err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		return err
	}
	entries := 0
	tree.Walk(tr, "/", root, func(_ string, f tree.File, err error) error {
		if entries++; entries > 3000 {
			return fs.SkipAll
		}
		if err == nil && f.Type() == tree.Regular {
			var r io.ReaderAt
			if r, err = tr.Open(f.Inode); err == nil {
				_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(f.Size, 1<<20)))
			}
		}
		if first == nil {
			first = err
		}
		return nil
	})
	return first
}
