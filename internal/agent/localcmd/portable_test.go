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

// TestPortable takes a signed revision from one store to another, by a folder.
func TestPortable(t *testing.T) {
	disk, tree := golden(t, 3)
	work := t.TempDir()
	from, folder := filepath.Join(work, "from"), filepath.Join(work, "folder")
	ok(t, new(captured), "capture", disk, "--store", "dir:"+from, "--image", "other")
	ok(t, new(captured), "capture", disk, "--store", "dir:"+from, "--image", "golden")
	tool(t, "", "dd", "if=/dev/urandom", "of="+disk, "bs=512", "count=40", "seek=100", "conv=notrunc")
	ok(t, new(captured), "capture", disk, "--store", "dir:"+from, "--image", "golden")
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	st, err := dir.Open(from, dir.Options{Sign: func(r store.Revision) store.Signature { return sign.Sign(key, r) }})
	if err == nil {
		_, err = st.Sign(t.Context(), "golden", 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	trust := filepath.Join(work, "trust")
	if err := os.WriteFile(trust, []byte(sign.Text(key.Public().(ed25519.PublicKey))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}

	var e struct {
		Image, ID, Path, Format string
		Rev                     int
		Size, Used, File        int64
		Seconds                 float64
	}
	ok(t, &e, "export", "golden@2", folder, "--format", "mimeo", "--store", "dir:"+from)
	if e.Rev != 2 || e.File < 3<<20 || e.File > 5<<20 {
		t.Errorf("%+v", e)
	}
	fails(t, 4, []string{"export", "golden@2", folder, "--format", "mimeo", "--store", "dir:" + from}, "there already")

	var i struct {
		Imported              []string
		There, Chunks, Stored int64
		Seconds               float64
	}
	to := "dir:" + filepath.Join(work, "to")
	ok(t, &i, "import", folder, "--store", to)
	if len(i.Imported) != 1 || i.Imported[0] != "golden@2" || i.Chunks == 0 {
		t.Errorf("%+v", i)
	}
	ok(t, &i, "import", folder, "--store", to)
	if len(i.Imported) != 0 || i.There != 1 {
		t.Errorf("the second time: %+v", i)
	}
	copied := filepath.Join(work, "copy.img")
	ok(t, new(deployed), "deploy", "golden@2", copied, "--store", to, "--trust", trust)
	sameTree(t, copied, tree)
	fails(t, 2, []string{"import", folder, "--image", "x", "--store", to}, "signatures")
	fails(t, 3, []string{"import", filepath.Join(work, "none"), "--format", "mimeo", "--store", to}, "none")

	// A number that is taken, and a damaged chunk.
	taken := "dir:" + filepath.Join(work, "taken")
	for range 2 {
		tool(t, "", "dd", "if=/dev/urandom", "of="+disk, "bs=512", "count=40", "seek=200", "conv=notrunc")
		ok(t, new(captured), "capture", disk, "--store", taken, "--image", "golden")
	}
	fails(t, 1, []string{"import", folder, "--store", taken}, "golden@2")
	packs, err := filepath.Glob(filepath.Join(folder, "packs", "*.pack"))
	if err != nil || len(packs) == 0 {
		t.Fatal(err, packs)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(packs[0], b, 0o640); err != nil {
		t.Fatal(err)
	}
	fails(t, 1, []string{"import", folder, "--store", "dir:" + filepath.Join(work, "new")}, "chunk")
	fails(t, 3, []string{"deploy", "golden@2", copied, "--store", "dir:" + filepath.Join(work, "new")}, "golden")
}
