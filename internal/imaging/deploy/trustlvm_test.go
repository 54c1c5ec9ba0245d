package deploy

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
)

// TestTrustLogical trusts what lies in a logical volume, also after it has grown.
func TestTrustLogical(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	write := func(path, name string, at int64, b []byte) {
		t.Helper()
		dir := t.TempDir()
		command(t, "", "sh", "-euc", `mount -o loop,offset=$((32 << 20)),sizelimit=$((40 << 20)) "$1" "$2"`, "sh", path, dir)
		defer command(t, "", "umount", dir)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o644)
		must(t, err)
		_, err = f.WriteAt(b, at)
		must(t, err)
		must(t, f.Close())
	}
	from := lvmDisk(t, false)
	write(from, "big", 0, garbage(rng, 8*mib))
	write(from, "other", 0, garbage(rng, 4*mib))
	st := mem.New()
	m, _ := captured(t, from, st, capture.Options{})

	to := imageFile(t, 200, "")
	deployed(t, to, st, m, Options{})
	write(to, "other", 5000, []byte("changed"))
	res := deployed(t, to, st, m, Options{Compare: true, Last: m})
	if res.Trusted < 8*mib || res.Trusted >= 12*mib {
		t.Errorf("%d bytes are trusted: %s", res.Trusted, res.Untrusted)
	}
	if d := differ(t, to, st, m); len(d) > 0 {
		t.Errorf("%v", d)
	}
	if said := strings.Join(res.Untrusted, "\n"); !strings.Contains(said, "vg0/swap") {
		t.Errorf("said is: %q", res.Untrusted)
	}

	larger := imageFile(t, 300, "")
	var first []manifest.Entry
	for i := range 2 {
		res := deployed(t, larger, st, m, Options{Compare: i > 0, Last: m, Grow: GrowLast})
		if i > 0 && res.Trusted < 8*mib {
			t.Errorf("grown: %d bytes are trusted: %s", res.Trusted, res.Untrusted)
		}
		// The table alone is another on a larger disk.
		d := differ(t, larger, st, m)
		if i == 0 {
			first = d
		}
		if !slices.Equal(d, first) {
			t.Errorf("%v, want %v", d, first)
		}
		g, err := GrowVolume(t.Context(), larger, 300<<20, m, res.Table, GrowLast)
		if err != nil || len(g.Grown) != 1 {
			t.Fatalf("%+v, %v", g, err)
		}
	}
}
