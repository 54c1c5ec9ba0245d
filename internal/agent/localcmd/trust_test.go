package localcmd_test

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/sign"
)

func TestTrust(t *testing.T) {
	disk, tree := golden(t, 2)
	work := t.TempDir()
	place := filepath.Join(work, "store")
	key, other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	file := func(name, text string) string {
		path := filepath.Join(work, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	public := func(k ed25519.PrivateKey) string { return sign.Text(k.Public().(ed25519.PublicKey)) }
	ours, theirs, both := file("ours", public(key)+"\n"), file("theirs", public(other)+"\n"), file("both", "# sites\n"+public(other)+" b\n"+public(key)+" a\n")
	copied := filepath.Join(work, "copy.img")
	deploy := func(trust string) []string {
		return []string{"deploy", "golden", copied, "--store", "dir:" + place, "--trust", trust}
	}

	ok(t, new(captured), "capture", disk, "--store", "dir:"+place, "--image", "golden")
	fails(t, 4, deploy(ours), "golden@1 is not signed", "nothing was written", "without --trust")
	st, err := dir.Open(place, dir.Options{Sign: func(r store.Revision) store.Signature { return sign.Sign(key, r) }})
	if err == nil {
		_, err = st.Sign(t.Context(), "golden", 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, 4, deploy(theirs), "signed by "+public(key)+", a key that is not trusted", theirs)
	fails(t, 2, deploy(file("text", "key\n")), "line 1", "mimeo key show")
	fails(t, 2, deploy(filepath.Join(work, "none")), "no such file")
	if _, err := os.Stat(copied); err == nil {
		t.Error("the image file was made")
	}
	ok(t, new(deployed), deploy(both)...)
	sameTree(t, copied, tree)
	os.Remove(copied)
	ok(t, new(deployed), deploy(ours)...)

	// The record of another image, put in its place.
	b, err := os.ReadFile(filepath.Join(place, "images/golden/1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(place, "images/web"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, "images/web/1.json"), bytes.Replace(b, []byte("golden"), []byte("web"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, 4, []string{"deploy", "web", filepath.Join(work, "web.img"), "--store", "dir:" + place, "--trust", ours}, "is wrong: it is not of this image")
}
