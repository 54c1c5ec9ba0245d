package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample writes a backup of a small state folder, and returns it with the files that must come back.
func sample(t testing.TB) ([]byte, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"key": "sealing key", "tls/key.pem": "a key", "profiles/a b.yaml": "extends: imaging\n", "nfs/postscripts/x.sh": "#!/bin/sh\n", "mimeo.db": "a copy", ConfigName: "log: json\n"}
	for name, text := range want {
		put("s/"+name, text, 0o600)
	}
	os.Chmod(filepath.Join(dir, "s/nfs/postscripts/x.sh"), 0o755)
	os.Remove(filepath.Join(dir, "s", ConfigName))
	put("s/mimeo.db", "in use", 0o600)
	put("s/mimeo.db-wal", "in use", 0o600)
	put("s/store/packs/1", "large", 0o600)
	put("s/stateless/imaging/x", "built again", 0o600)
	put("s/tmp-backup-1/mimeo.db", "a copy", 0o600)
	put("conf", "log: json\n", 0o644)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "s/link")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Write(context.Background(), &out, Source{Head: Head{Version: Version, Created: time.Unix(1700000000, 0).UTC(), Mimeo: "1", Host: "m"},
		State: filepath.Join(dir, "s"), Config: filepath.Join(dir, "conf"), Database: filepath.Join(dir, "s/tmp-backup-1/mimeo.db")})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), want
}

func TestThereAndBack(t *testing.T) {
	b, want := sample(t)
	state := filepath.Join(t.TempDir(), "new", "state")
	head, err := Restore(bytes.NewReader(b), state)
	if err != nil || head.Mimeo != "1" || head.Host != "m" {
		t.Fatalf("%+v, %v", head, err)
	}
	got := map[string]string{}
	filepath.WalkDir(state, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(state, p)
			text, err := os.ReadFile(p)
			got[rel] = string(text)
			return err
		}
		return err
	})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if st, err := os.Stat(filepath.Join(state, "nfs/postscripts/x.sh")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", st, err)
	}
	// What is there already stays.
	if _, err := Restore(bytes.NewReader(b), state); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("onto itself: %v", err)
	}
	// Others' tools read it.
	dir := t.TempDir()
	file := filepath.Join(dir, "b.tar.gz")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-euc", `cd "$1"; tar xzf b.tar.gz; sha256sum --strict -c SHA256SUMS`, "sh", dir).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDamaged cuts a backup off everywhere and flips its bytes: nothing must be made of it.
func TestDamaged(t *testing.T) {
	b, _ := sample(t)
	state := filepath.Join(t.TempDir(), "state")
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := Restore(bytes.NewReader(b), state); err == nil {
			t.Errorf("%s: taken for whole", what)
		}
		if _, err := os.Stat(state); err == nil {
			t.Fatalf("%s: something was made", what)
		}
	}
	for n := range len(b) {
		refused(fmt.Sprintf("cut off at %d", n), b[:n])
	}
	plain := func() []byte {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := out.ReadFrom(z); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}()
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
		return out.Bytes()
	}
	for _, word := range []string{"sealing key", "a copy", `"version"`, "SHA256SUMS", "state/key"} {
		i := bytes.Index(plain, []byte(word))
		bad := bytes.Clone(plain)
		bad[i+1] ^= 1
		refused("a bit of "+word, zip(bad))
	}
	for name, members := range map[string][]string{
		"out of the folder": {headMember, "state/../../evil"}, "from the root": {headMember, "/etc/evil"}, "twice": {headMember, "state/a", "state/a"},
		"another beginning": {"state/a"}, "nothing": {},
	} {
		var out, sums bytes.Buffer
		w := tar.NewWriter(&out)
		for _, m := range append(members, sumsMember) {
			text := []byte(`{"version": 1}`)
			if m == sumsMember {
				text = sums.Bytes()
			}
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(text), m)
			w.WriteHeader(&tar.Header{Name: m, Size: int64(len(text)), Mode: 0o600})
			w.Write(text)
		}
		w.Close()
		refused(name, zip(out.Bytes()))
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	w.WriteHeader(&tar.Header{Name: headMember, Size: 14, Mode: 0o600})
	w.Write([]byte(`{"version": 1}`))
	w.WriteHeader(&tar.Header{Name: "state/key", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})
	w.Close()
	refused("a link", zip(out.Bytes()))
}

func FuzzCheck(f *testing.F) {
	b, _ := sample(f)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Check(bytes.NewReader(b)); err != nil && !strings.Contains(err.Error(), "backup") {
			t.Errorf("%v", err)
		}
	})
}
