package localcmd_test

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
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

// TestSeal exports a signed image and checks the files by their seals, far away from the store.
func TestSeal(t *testing.T) {
	disk, _ := golden(t, 2)
	work := t.TempDir()
	place := filepath.Join(work, "store")
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	public := sign.Text(key.Public().(ed25519.PublicKey))
	trust, other := filepath.Join(work, "ours"), filepath.Join(work, "other")
	for file, text := range map[string]string{trust: public, other: sign.Text(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)).Public().(ed25519.PublicKey))} {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, qcow := filepath.Join(work, "a.raw"), filepath.Join(work, "a.qcow2")
	var e struct {
		Image, ID, Path, Format, Seal string
		Rev                           int
		Size, Used, File              int64
		Seconds                       float64
	}
	var c captured
	ok(t, &c, "capture", disk, "--store", "dir:"+place, "--image", "golden")
	ok(t, &e, "export", "golden", raw, "--store", "dir:"+place)
	if e.Seal != "" {
		t.Errorf("an image that nobody signed has the seal %s", e.Seal)
	}
	fails(t, 3, []string{"verify", raw, "--trust", trust}, "a.raw.seal", "--seal")
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
	ok(t, &e, "export", "golden", raw, "--force", "--store", "dir:"+place)
	ok(t, &e, "export", "golden", qcow, "--compress", "--store", "dir:"+place)
	if e.Seal != qcow+".seal" {
		t.Errorf("%+v", e)
	}
	fails(t, 4, []string{"export", "golden", qcow, "--store", "dir:" + place}, "there already")
	os.RemoveAll(place)

	var v struct {
		Image, ID, Path, Seal string
		Rev                   int
		Size                  int64
		Signed                []string
		Seconds               float64
	}
	ok(t, &v, "verify", raw, "--trust", trust)
	if v.Image != "golden" || v.Rev != 1 || v.ID != c.ID || v.Size != 96<<20 || len(v.Signed) != 1 || v.Signed[0] != public {
		t.Errorf("%+v", v)
	}
	ok(t, &v, "verify", qcow, "--trust", trust)
	ok(t, &v, "verify", raw, "--seal", qcow+".seal", "--trust", trust)
	fails(t, 4, []string{"verify", raw, "--trust", other}, "signed by "+public+", a key that is not trusted")
	fails(t, 2, []string{"verify", raw}, "--trust KEYFILE is missing")

	// Onto a larger disk that held something: what the image uses is what was signed.
	big := empty(t, filepath.Join(work, "big"), 128)
	tool(t, "", "dd", "if=/dev/urandom", "of="+big, "bs=1M", "seek=100", "count=20", "conv=notrunc", "status=none")
	tool(t, "", "dd", "if="+raw, "of="+big, "bs=1M", "conv=notrunc", "status=none")
	loop := strings.TrimSpace(tool(t, "", "losetup", "-f", "--show", big))
	defer tool(t, "", "losetup", "-d", loop)
	ok(t, &v, "verify", loop, "--seal", raw+".seal", "--trust", trust)
	fails(t, 1, []string{"verify", big, "--seal", raw + ".seal", "--trust", trust}, "the image does not use them")

	// One bit of a file in it, the seal's signature, and the seal of another image.
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	const at = rootOff + 1024 + 56 // the magic of the ext4 superblock
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	fails(t, 1, []string{"verify", raw, "--trust", trust}, "is not golden@1 as it was signed", "their hash is another")
	text, err := os.ReadFile(qcow + ".seal")
	if err != nil {
		t.Fatal(err)
	}
	for bad, code := range map[string]int{`"rev":2`: 4, `"rev":0`: 1} {
		if err := os.WriteFile(qcow+".seal", bytes.Replace(text, []byte(`"rev":1`), []byte(bad), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		fails(t, code, []string{"verify", qcow, "--trust", trust}, "seal")
	}
}
