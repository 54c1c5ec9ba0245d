package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const storeID = "00112233445566778899aabbccddeeff"

func secret(t *testing.T, text string) Secret {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.key")
	if err := NewFile(path); err != nil {
		t.Fatal(err)
	}
	if err := NewFile(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key that was there: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s, err := Read(path)
	if err != nil || s.Kind() != "key" {
		t.Fatalf("%v, %v", s.Kind(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []string{string(text[:len(text)-5]), "MIMEO-STORE-KEY-1", "MIMEO-STORE-KEY-1 \n", "MIMEO-STORE-KEY-1 " + strings.Repeat("A", 60), "", "\n", "short\nbut there is more", strings.Repeat("x", maxFile+1)} {
		if err := os.WriteFile(path, []byte(cut), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Read(path); err == nil || !s.IsZero() {
			t.Errorf("%.40q: a %s", cut, s.Kind())
		}
	}
	if s := secret(t, "eight ch\r\nmore"); s.Kind() != "passphrase" || string(s.pass) != "eight ch" {
		t.Errorf("%q", s.pass)
	}
	for _, s := range []Secret{s, secret(t, "correct horse")} {
		for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
			if out := fmt.Sprintf(format, s); strings.Contains(out, "horse") || len(out) > 30 {
				t.Errorf(format+" shows it", s)
			}
		}
		if b, err := json.Marshal(s); err != nil || string(b) != "{}" {
			t.Errorf("%s, %v", b, err)
		}
	}
}

func TestSeal(t *testing.T) {
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "store.key")
	if err := NewFile(path); err != nil {
		t.Fatal(err)
	}
	file, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef"
	for _, by := range []Secret{file, secret(t, "correct horse")} {
		b, err := k.Seal(by, storeID, id)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSealed(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Open(by, id)
		if err != nil || !bytes.Equal(got.key, k.key) {
			t.Fatalf("%s: %v", by, err)
		}
		if _, err := s.Open(by, "fedcba9876543210"); !errors.Is(err, ErrWrong) {
			t.Errorf("%s under another name: %v", by, err)
		}
		for _, other := range []Secret{secret(t, "correct hors"), {key: make([]byte, size)}} {
			if _, err := s.Open(other, id); !errors.Is(err, ErrWrong) {
				t.Errorf("%s by %s: %v", by, other, err)
			}
		}
		moved := *s
		moved.Store = "ff" + storeID[2:]
		if _, err := moved.Open(by, id); !errors.Is(err, ErrWrong) {
			t.Errorf("%s of another store: %v", by, err)
		}
		if s.Argon == nil {
			continue
		}
		for _, a := range []Argon{{}, {Salt: s.Argon.Salt, Time: 1, Memory: 1 << 31, Threads: 1}, {Salt: s.Argon.Salt, Time: 1 << 30, Memory: 64, Threads: 1},
			{Salt: s.Argon.Salt, Time: 1, Memory: 64}, {Salt: s.Argon.Salt, Time: 1, Threads: 1}, {Salt: "AAAA", Time: 1, Memory: 64, Threads: 1}} {
			bad := *s
			bad.Argon = &a
			if _, err := bad.Open(by, id); err == nil || errors.Is(err, ErrWrong) {
				t.Errorf("%+v: %v", a, err)
			}
		}
	}
}

func TestSealFile(t *testing.T) {
	k, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "the manifest of a disk"} {
		b, err := k.SealFile("manifests/a", []byte(text))
		if err != nil || len(b) != len(text)+Over {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if out, err := k.OpenFile("manifests/a", b); err != nil || string(out) != text {
			t.Errorf("%q, %v", out, err)
		}
		if _, err := k.OpenFile("manifests/b", b); err == nil {
			t.Error("opens under another name")
		}
		for i := range b {
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, err := k.OpenFile("manifests/a", c); err == nil {
				t.Errorf("opens with byte %d changed", i)
			}
			if _, err := k.OpenFile("manifests/a", b[:i]); err == nil {
				t.Errorf("opens cut to %d", i)
			}
		}
	}
}

func FuzzSealed(f *testing.F) {
	k, err := New()
	if err != nil {
		f.Fatal(err)
	}
	by := Secret{key: make([]byte, size)}
	b, err := k.Seal(by, storeID, "0123456789abcdef")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"kind":"key","nonce":"","sealed":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSealed(b)
		if err != nil {
			return
		}
		if got, err := s.Open(by, "0123456789abcdef"); err == nil && !bytes.Equal(got.key, k.key) {
			t.Error("another key")
		}
	})
}
