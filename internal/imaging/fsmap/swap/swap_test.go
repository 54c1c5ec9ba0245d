package swap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

const uuidText = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa"

// area makes a swap area with mkswap, and returns its bytes.
func area(t testing.TB, size, page int, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append(args, "-q", "-p", fmt.Sprint(page), "-U", uuidText, "-L", "some swap", path)
	if out, err := exec.Command("/sbin/mkswap", args...).CombinedOutput(); err != nil {
		t.Fatalf("mkswap %v: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAgainstMkswap(t *testing.T) {
	const size = 4 << 20
	for _, page := range []int{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		for _, order := range []string{"little", "big"} {
			t.Run(fmt.Sprintf("%d/%s", page, order), func(t *testing.T) {
				b := area(t, size, page)
				if order == "big" {
					// mkswap writes as this machine does, unless it is a recent one.
					for off := headerOff; off < headerOff+12; off += 4 {
						binary.BigEndian.PutUint32(b[off:], binary.LittleEndian.Uint32(b[off:]))
					}
				}
				// What blkid says of it.
				path := filepath.Join(t.TempDir(), "swap")
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command("/sbin/blkid", "-p", "-o", "export", path).Output()
				if err != nil {
					t.Fatal(err)
				}
				copy(b[page:], bytes.Repeat([]byte("secret"), 1000)) // what was swapped out
				v, used, err := Used(bytes.NewReader(b), size)
				if err != nil || v.Whole != "" || !v.Head {
					t.Fatalf("%+v, %v", v, err)
				}
				for _, want := range []string{"TYPE=" + v.Type, "UUID=" + v.UUID, "LABEL=" + strings.ReplaceAll(v.Label, " ", `\ `)} {
					if !strings.Contains(string(out), want+"\n") {
						t.Errorf("%s: blkid says\n%s", want, out)
					}
				}
				if len(used) != 1 || used[0] != (extent.Extent{Len: int64(page)}) || v.BlockSize != page {
					t.Errorf("used %v, pages of %d", used, v.BlockSize)
				}
				// The header alone is a swap area again.
				dup := make([]byte, size)
				copy(dup, b[:page])
				if err := os.WriteFile(path, dup, 0o600); err != nil {
					t.Fatal(err)
				}
				again, err := exec.Command("/sbin/blkid", "-p", "-o", "export", path).Output()
				if err != nil || string(again) != string(out) {
					t.Errorf("blkid says of the copy: %s (%v)", again, err)
				}
			})
		}
	}
}

func TestWhole(t *testing.T) {
	const page = 4 << 10
	sign := func(s string) func([]byte) { return func(b []byte) { copy(b[page-10:], s) } }
	for _, c := range []struct {
		name   string
		change func(b []byte)
		kind   string
		reason string
	}{
		{"kernel hibernation", sign("S1SUSPEND\x00"), "swsuspend", "hibernated"},
		{"kernel hibernation, older", sign("S2SUSPEND\x00"), "swsuspend", "hibernated"},
		{"uswsusp", sign("ULSUSPEND\x00"), "swsuspend", "hibernated"},
		{"LINHIB", sign("LINHIB0001"), "swsuspend", "hibernated"},
		{"tuxonice", sign("\xed\xc3\x02\xe9\x98\x56\xe5\x0c"), "swsuspend", "hibernated"},
		{"old form", sign("SWAP-SPACE"), "swap", "old form"},
		{"version", func(b []byte) { b[headerOff] = 7 }, "swap", "unknown version"},
		{"more pages than the volume", func(b []byte) { binary.LittleEndian.PutUint32(b[headerOff+4:], 1<<20) }, "swap", "speaks of"},
		{"no pages", func(b []byte) { binary.LittleEndian.PutUint32(b[headerOff+4:], 0) }, "swap", "speaks of"},
		{"bad pages", func(b []byte) { binary.LittleEndian.PutUint32(b[headerOff+8:], 700) }, "swap", "lists 700 bad pages"},
		{"two headers", func(b []byte) { copy(b[64<<10-10:], "SWAPSPACE2") }, "swap", "two swap areas"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := area(t, 1<<20, page)
			c.change(b)
			if !Is(b[:64<<10]) {
				t.Fatal("not seen")
			}
			v, _, err := Used(bytes.NewReader(b), int64(len(b)))
			if err != nil || v.Type != c.kind || !strings.Contains(v.Whole, c.reason) {
				t.Errorf("%+v, %v", v, err)
			}
			if (c.kind == "swsuspend") != (len(v.Notes) > 0) {
				t.Errorf("notes %q", v.Notes)
			}
		})
	}
}

func TestBadPages(t *testing.T) {
	b := area(t, 1<<20, 4<<10)
	binary.LittleEndian.PutUint32(b[headerOff+8:], 2)
	binary.LittleEndian.PutUint32(b[badPagesOff:], 77)
	v, used, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil || v.Whole != "" || len(v.Notes) != 1 || used.Bytes() != 4<<10 {
		t.Errorf("%+v, %v, %v", v, used, err)
	}
}

type unreadable struct{}

func (unreadable) ReadAt(b []byte, off int64) (int, error) { return 0, errors.New("medium error") }

func TestUnreadable(t *testing.T) {
	if _, _, err := Used(unreadable{}, 1<<20); err == nil {
		t.Error("no error")
	}
}

func FuzzUsed(f *testing.F) {
	f.Add(area(f, 64<<10, 4<<10)[:4<<10], uint32(64<<10))
	f.Fuzz(func(t *testing.T, head []byte, size uint32) {
		b := make([]byte, size%(1<<20))
		copy(b, head)
		v, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if v.Whole == "" && (used.Valid() != nil || len(used) != 1 || used[0].End() > int64(len(b))) {
			t.Fatalf("%v of %d bytes", used, len(b))
		}
	})
}
