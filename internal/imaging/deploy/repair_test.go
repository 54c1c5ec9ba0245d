package deploy

import (
	"encoding/binary"
	"hash/crc32"
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
		"first usable":     func(b []byte) { binary.LittleEndian.PutUint64(b[512+40:], 1<<40); reseal(b) },
		"first usable 0":   func(b []byte) { binary.LittleEndian.PutUint64(b[512+40:], 0); reseal(b) },
		"last usable":      func(b []byte) { binary.LittleEndian.PutUint64(b[512+48:], 3000); reseal(b) },
		"place of entries": func(b []byte) { binary.LittleEndian.PutUint64(b[512+72:], size/512-33); reseal(b) },
		"no entries":       func(b []byte) { binary.LittleEndian.PutUint32(b[512+80:], 0); reseal(b) },
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

// reseal makes the checksums of the primary GPT right again.
func reseal(b []byte) {
	le, h := binary.LittleEndian, b[512:][:92]
	entries := b[le.Uint64(h[72:])*512:][:le.Uint32(h[80:])*le.Uint32(h[84:])]
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
}

// TestEntries deploys GPTs with more and fewer than 128 entries, whole and from the backup alone, to disks of the captured
// size, of another, and just as large as the image says that it needs.
func TestEntries(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		damaged bool
	}{
		{"256", []string{"-S", "256", "-n", "1:1M:+3M", "-n", "2:5M:+4M"}, false},
		{"256, full", []string{"-S", "256", "-n", "1:1M:+3M", "-n", "2:5M:0"}, false},
		{"partition 200", []string{"-S", "256", "-n", "1:1M:+3M", "-n", "200:5M:+4M"}, false},
		{"partition 200, no primary", []string{"-S", "256", "-n", "1:1M:+3M", "-n", "200:5M:+4M"}, true},
		{"4, no primary", []string{"-S", "4", "-a", "1", "-n", "1:3:+3M", "-n", "2:5M:+4M"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := imageFile(t, 16, "")
			command(t, "", "sgdisk", append(append([]string{"-o"}, c.args...), from)...)
			want := command(t, "", "sgdisk", "-p", from)
			want = want[strings.Index(want, "Number"):]
			f, err := os.OpenFile(from, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			// What lies at the end of the last partition must not be held to be the backup.
			if _, err := f.WriteAt([]byte("end of partition"), 9<<20-16); err != nil {
				t.Fatal(err)
			}
			if c.damaged {
				if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
					t.Fatal(err)
				}
			}
			st := mem.New()
			m, _ := captured(t, from, st, capture.Options{})
			for _, size := range []int64{16 << 20, 24 << 20, m.Needed()} {
				to := imageFile(t, 1, "")
				if err := os.Truncate(to, size); err != nil {
					t.Fatal(err)
				}
				deployed(t, to, st, m, Options{Verify: true})
				if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
					t.Errorf("%d bytes:\n%s", size, out)
				}
				if out := command(t, "", "sgdisk", "-p", to); !strings.HasSuffix(out, want) {
					t.Errorf("%d bytes:\n%s\nwant\n%s", size, out, want)
				}
				if b := read(t, to); string(b[9<<20-16:9<<20]) != "end of partition" {
					t.Errorf("%d bytes: the last partition lost its end", size)
				}
			}
		})
	}
}
