package leaveout

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/ntfs"
)

// TestWindows leaves out the page file, and the hibernation file only where nobody sleeps in it.
func TestWindows(t *testing.T) {
	dir := t.TempDir()
	sh(t, `cd "$1"; truncate -s 40M img; mkntfs -q -F -f img
		yes page | head -c 5000000 >page; yes x | head -c 1000000 >hiber0; printf 'hibr' >hiber; cat hiber0 >>hiber; printf 'wake' >awake; cat hiber0 >>awake
		ntfscp -q img page /pagefile.sys; ntfscp -q img page /kept.sys; cp img sleeping; cp img other; ntfscp -q other hiber0 /hiberfil.sys; ntfscp -q img awake /hiberfil.sys; ntfscp -q sleeping hiber /hiberfil.sys`, dir)
	for img, want := range map[string]struct {
		files int
		note  string
	}{"img": {2, ""}, "other": {2, ""}, "sleeping": {1, "hiberfil.sys is kept"}} {
		path := filepath.Join(dir, img)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const size = 40 << 20
		fs, err := ntfs.OpenTree(f, size)
		if err != nil {
			t.Fatal(err)
		}
		found, err := Find(fs, Rules{Swap: true}, func(add func(extent.Extent)) (string, error) { return ntfs.Claims(f, size, add) })
		if err != nil {
			t.Fatal(err)
		}
		if found.Files != want.files || !strings.Contains(strings.Join(found.Notes, " "), want.note) || found.Extents.Bytes() < 5_000_000 {
			t.Errorf("%s: %d files, %d bytes, %q", img, found.Files, found.Extents.Bytes(), found.Notes)
		}
		for _, e := range found.Extents {
			if _, err := f.WriteAt(make([]byte, e.Len), e.Off); err != nil {
				t.Fatal(err)
			}
		}
		if out := sh(t, `ntfsfix -n "$1" >&2; ntfscat "$1" /pagefile.sys | tr -d '\000' | wc -c; ntfscat "$1" /kept.sys | cmp - "$2/page" && echo same`, path, dir); !strings.Contains(out, "0\nsame") {
			t.Errorf("%s: %s", img, out)
		}
	}
}
