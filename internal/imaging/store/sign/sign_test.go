package sign_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/imaging/store/storetest"
)

func keyOf(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func revision(image string, rev int, text string) store.Revision {
	return store.Revision{Image: image, Rev: rev, ID: chunk.Sum([]byte(text))}
}

func signed(r store.Revision, keys ...ed25519.PrivateKey) store.Revision {
	for _, k := range keys {
		r.Signatures = append(r.Signatures, sign.Sign(k, r))
	}
	return r
}

// TestAttacks changes the record of a revision in the ways of somebody who may write to the store and has no key.
func TestAttacks(t *testing.T) {
	ours, theirs, other := keyOf(1), keyOf(2), keyOf(3)
	trusted := sign.Keys{{Name: "ours", Public: public(ours)}, {Name: "theirs", Public: public(theirs)}}
	good := signed(revision("debian12", 3, "m"), ours)
	sig := func(r store.Revision, from store.Revision) store.Revision {
		r.Signatures = from.Signatures
		return r
	}
	own := func(change func(*store.Signature)) store.Revision {
		r := good
		r.Signatures = []store.Signature{good.Signatures[0]}
		change(&r.Signatures[0])
		return r
	}
	stranger := signed(revision("debian12", 3, "evil"), other)
	stranger.Signatures[0].Key = good.Signatures[0].Key
	for name, tc := range map[string]struct {
		r    store.Revision
		says string // "" where it is good
	}{
		"ours":                  {good, ""},
		"theirs":                {signed(revision("debian12", 3, "m"), theirs), ""},
		"another's before ours": {signed(revision("debian12", 3, "m"), other, ours), ""},
		"a wrong one beside it": {sig(good, store.Revision{Signatures: append([]store.Signature{{Key: "x", Sig: "y"}}, good.Signatures...)}), ""},
		"manifest swapped":      {sig(revision("debian12", 3, "evil"), good), "signature by ours"},
		"of another revision":   {sig(revision("debian12", 4, "m"), good), "is wrong"},
		"of another image":      {sig(revision("debian13", 3, "m"), good), "is wrong"},
		"removed":               {revision("debian12", 3, "m"), "debian12@3 is not signed"},
		"unknown key":           {signed(revision("debian12", 3, "m"), other), sign.Text(public(other)) + ", a key that is not trusted"},
		"said to be ours":       {stranger, "is wrong"},
		"key damaged":           {own(func(s *store.Signature) { s.Key = s.Key[1:] }), "is wrong"},
		"key with a line feed":  {own(func(s *store.Signature) { s.Key += "\n" }), "is wrong"},
		"signature damaged":     {own(func(s *store.Signature) { s.Sig = "%" + s.Sig[1:] }), "is wrong"},
		"signature cut off":     {own(func(s *store.Signature) { s.Sig = s.Sig[:40] }), "is wrong"},
		"signature empty":       {own(func(s *store.Signature) { s.Sig = "" }), "is wrong"},
		"both empty":            {own(func(s *store.Signature) { *s = store.Signature{} }), "is wrong"},
		"name runs into number": {sig(revision("debian1", 23, "m"), signed(revision("debian12", 3, "m"), ours)), "is wrong"},
		"certificate's key only": {own(func(s *store.Signature) {
			s.Sig = base64.StdEncoding.EncodeToString(ed25519.Sign(ours, []byte(`{"version":1}`)))
		}), "is wrong"},
	} {
		err := trusted.Check(tc.r)
		if tc.says == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var e *sign.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.says) || e.Unsigned() != (name == "removed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (sign.Keys{}).Check(good); err == nil {
		t.Error("without a key a revision is taken for good")
	}
	many := good
	many.Signatures = append(make([]store.Signature, sign.Most), good.Signatures...)
	if len(trusted.Look(many)) != sign.Most || trusted.Check(many) == nil {
		t.Error("more signatures are looked at than a revision may have")
	}
}

func TestKeys(t *testing.T) {
	a, b := sign.Text(public(keyOf(1))), sign.Text(public(keyOf(2)))
	keys, err := sign.ParseKeys("# sites\n\n" + a + "\n  " + b + "  site b \r\n")
	if err != nil || len(keys) != 2 || keys[0].Name != "" || keys[1].Name != "site b" || sign.Text(keys[1].Public) != b {
		t.Errorf("%v, %v", keys, err)
	}
	for _, bad := range []string{"", "# none", a[1:], a + "A", a[:43], "ours " + a, a + "\n" + strings.Repeat("x", 1<<12)} {
		if keys, err := sign.ParseKeys(bad); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.80q: %v, %v", bad, keys, err)
		}
	}
}

// TestStore has a store sign what it publishes, and openssl judge the record that lies on the disk.
func TestStore(t *testing.T) {
	ctx, path, ours := t.Context(), t.TempDir(), keyOf(1)
	trusted := sign.Keys{{Name: "ours", Public: public(ours)}}
	open := func(k ed25519.PrivateKey) *dir.Store {
		o := dir.Options{Create: true}
		if k != nil {
			o.Sign = func(r store.Revision) store.Signature { return sign.Sign(k, r) }
		}
		s, err := dir.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	publish := func(s *dir.Store, image string, n uint64) store.Revision {
		t.Helper()
		m, err := storetest.Image(ctx, s, 3, func(piece int) uint64 { return uint64(piece) + 100*n })
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Stage(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Publish(ctx, image, id)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	s := open(nil)
	old := publish(s, "debian12", 1)
	if _, err := s.Sign(ctx, "debian12", 1); err == nil || len(old.Signatures) != 0 {
		t.Errorf("signed without a key: %v", err)
	}
	s.Close()
	s = open(keyOf(9))
	foreign := publish(s, "debian12", 2)
	s.Close()
	s = open(ours)
	defer s.Close()
	if r := publish(s, "debian12", 3); trusted.Check(r) != nil || len(r.Signatures) != 1 {
		t.Errorf("published: %+v", r)
	}
	if r := publish(s, "debian12", 1); r.Rev != 1 || trusted.Check(r) != nil {
		t.Errorf("published again: %+v", r)
	}
	if trusted.Check(old) == nil || trusted.Check(foreign) == nil {
		t.Error("what others published is taken for ours")
	}
	for range 2 {
		if r, err := s.Sign(ctx, "debian12", 2); err != nil || trusted.Check(r) != nil || len(r.Signatures) != 2 || r.Signatures[1] != foreign.Signatures[0] {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if _, err := s.Sign(ctx, "debian12", 9); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
	revs, err := s.Revisions(ctx, "debian12")
	if err != nil || len(revs) != 3 {
		t.Fatalf("%v, %v", revs, err)
	}
	for _, r := range revs {
		if err := trusted.Check(r); err != nil {
			t.Error(err)
		}
		openssl(t, path, r, public(ours))
	}
	// A record that shows another size than the manifest has is not what people think that they sign.
	name := filepath.Join(path, "images/debian12/1.json")
	b, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, bytes.Replace(b, []byte(`"disk_size": 2`), []byte(`"disk_size": 9`), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(ctx, "debian12", 1); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("%v", err)
	}
}

// openssl checks the signature in a record as docs/formats/store.md has it.
func openssl(t *testing.T, path string, r store.Revision, key ed25519.PublicKey) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path, "images", r.Image, fmt.Sprintf("%d.json", r.Rev)))
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		ID         string
		Signatures []struct{ Key, Sig []byte }
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	put := func(name string, b []byte) string {
		file := filepath.Join(tmp, name)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	// SubjectPublicKeyInfo of an Ed25519 key, RFC 8410 section 4.
	spki := append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, key...)
	pub := put("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	for want, text := range map[bool]string{
		true:  fmt.Sprintf("mimeo-revision-v1\n%s\n%d\n%s\n", r.Image, r.Rev, rec.ID),
		false: fmt.Sprintf("mimeo-revision-v1\n%s\n%d\n%s\n", r.Image, r.Rev+1, rec.ID),
	} {
		out, err := exec.Command("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", pub, "-rawin", "-in", put("text", []byte(text)), "-sigfile", put("sig", rec.Signatures[0].Sig)).CombinedOutput()
		if (err == nil) != want || !bytes.Equal(rec.Signatures[0].Key, key) {
			t.Errorf("%s: openssl says: %v %s", r, err, out)
		}
	}
}

// FuzzLook has records with anything for a signature: nothing but ours counts.
func FuzzLook(f *testing.F) {
	ours := keyOf(1)
	good := signed(revision("debian12", 3, "m"), ours)
	f.Add(good.Signatures[0].Key, good.Signatures[0].Sig, "debian12", 3)
	f.Add(good.Signatures[0].Key, "AAAA", "x", 1)
	trusted := sign.Keys{{Public: public(ours)}}
	f.Fuzz(func(t *testing.T, key, sig, image string, rev int) {
		r := revision(image, rev, "m")
		r.Signatures = []store.Signature{{Key: key, Sig: sig}}
		if err := trusted.Check(r); err == nil && r.Signatures[0] != signed(revision(image, rev, "m"), ours).Signatures[0] {
			t.Errorf("%q %q is taken for a signature of %s", key, sig, r)
		}
	})
}
