package deploy

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/store/mem"
)

// TestRepair deploys disks whose GPT was damaged when they were captured: sgdisk finds nothing wrong with the copy.
func TestRepair(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 9))
	const size = 16 << 20
	for name, damage := range map[string]func(b []byte){
		"nothing":          func([]byte) {},
		"primary header":   func(b []byte) { b[512+40] ^= 1 },
		"primary entries":  func(b []byte) { b[1024+40] ^= 1 },
		"primary is gone":  func(b []byte) { clear(b[512 : 34*512]) },
		"backup header":    func(b []byte) { b[size-512+40] ^= 1 },
		"backup entries":   func(b []byte) { b[size-33*512+40] ^= 1 },
		"protective: size": func(b []byte) { b[446+12] = 7; clear(b[446+13 : 446+16]) },
		"protective: from": func(b []byte) { b[446+8] = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			from := imageFile(t, size>>20, "label: gpt\nsize=5MiB,name=first\nsize=5MiB,name=second\n")
			format(t, rng, from, 1<<20, 5<<20, "-t", "ext4")
			b := read(t, from)
			damage(b)
			if err := os.WriteFile(from, b, 0o600); err != nil {
				t.Fatal(err)
			}
			st := mem.New()
			m, _ := captured(t, from, st, capture.Options{})
			if said := len(m.Table.Notes) > 0; said != (name != "nothing") {
				t.Errorf("notes: %q", m.Table.Notes)
			}
			to := imageFile(t, size>>20, "")
			res := deployed(t, to, st, m, Options{Verify: true})
			if res.Repaired != (name != "nothing") {
				t.Errorf("repaired: %v", res.Repaired)
			}
			if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
				t.Error(out)
			}
			if out := command(t, "", "sgdisk", "-p", to); !strings.Contains(out, "first") || !strings.Contains(out, "second") || strings.Contains(out, "Warning") {
				t.Error(out)
			}
			if out := command(t, "", "fdisk", "-l", to); strings.Contains(out, "mismatch") || strings.Contains(out, "corrupt") {
				t.Error(out)
			}
		})
	}
}
