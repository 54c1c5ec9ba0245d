package ext4

import (
	"bytes"
	"crypto/sha256"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// place is where a block of content lies in its file.
type place struct {
	sum [32]byte
	at  int64
}

// contents reads all files of an image with debugfs and counts their blocks, those of zeros left out.
func contents(t *testing.T, img string, block int64) map[place]int {
	t.Helper()
	dir := t.TempDir()
	tool(t, "debugfs", "-R", "rdump / "+dir, img)
	blocks := map[place]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := int64(0); at < int64(len(b)); at += block {
			one := make([]byte, block)
			copy(one, b[at:])
			if !bytes.Equal(one, make([]byte, block)) {
				blocks[place{sha256.Sum256(one), at}]++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

// checkPieces compares what Pieces tells of an image with what its files hold.
func checkPieces(t *testing.T, img string) {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	facts, used := mapImage(t, img)
	var all fact.Pieces
	if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
		t.Fatal(err)
	}
	block := int64(facts.BlockSize)
	want := contents(t, img, block)
	files := 0
	for _, p := range all.List() {
		if e := (extent.List{{Off: p.Off, Len: p.Len}}); extent.Subtract(e, used).Bytes() > 0 {
			t.Errorf("%+v is not in use", p)
		}
		if p.At == 0 {
			files++
		}
		for n := int64(0); n < p.Len; n += block {
			one := b[p.Off+n:][:block]
			if bytes.Equal(one, make([]byte, block)) {
				continue
			}
			k := place{sha256.Sum256(one), p.At + n}
			if want[k]--; want[k] < 0 {
				t.Fatalf("%+v: what lies %d bytes into it is in no file there", p, n)
			}
		}
	}
	for k, n := range want {
		if n > 0 {
			t.Fatalf("a block at %d of a file is in no piece (%d files found)", k.at, files)
		}
	}
}

func TestPieces(t *testing.T) {
	for _, v := range variants {
		switch v.name {
		case "ext4-inline-data": // what lies in an inode is no piece
			continue
		case "ext4-quota", "ext4-orphan-file": // have files that debugfs does not show
			continue
		}
		t.Run(v.name, func(t *testing.T) { checkPieces(t, mke2fs(t, v.kib, v.args)) })
	}
}

// TestPiecesOfTornFiles has files whose extent trees and block maps have several levels.
func TestPiecesOfTornFiles(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 1024", "-t ext2 -b 1024"} {
		img, at := mke2fs(t, 64<<10, args), t.TempDir()
		tool(t, "mount", "-t", args[3:7], "-o", "loop", img, at)
		err := func() error {
			r := rand.New(rand.NewPCG(9, 9))
			var fs []*os.File
			for _, name := range []string{"a", "b", "c"} {
				f, err := os.Create(filepath.Join(at, name))
				if err != nil {
					return err
				}
				defer f.Close()
				fs = append(fs, f)
			}
			for i := range int64(6000) { // every other block is a hole, and each was written by itself
				b := make([]byte, 1024)
				for j := range b {
					b[j] = byte(r.Uint32())
				}
				if _, err := fs[i%3].WriteAt(b, 2048*(i/3)); err != nil {
					return err
				}
			}
			return nil
		}()
		tool(t, "umount", at)
		if err != nil {
			t.Fatal(err)
		}
		checkPieces(t, img)
	}
}

// TestPiecesOfDamage flips bits of inodes and extent trees: whatever comes lies on the volume, and it ends.
func TestPiecesOfDamage(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 1024 -g 1024 -O ^metadata_csum", "-t ext2 -b 1024 -g 1024"} {
		b, err := os.ReadFile(mke2fs(t, 8<<10, args))
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 9))
		for range 300 {
			bad := bytes.Clone(b)
			for range 200 {
				bad[2048+r.IntN(len(bad)-2048)] ^= 1 << r.IntN(8)
			}
			if err := Pieces(bytes.NewReader(bad), int64(len(bad)), func(p fact.Piece) {
				if p.Off < 0 || p.Len <= 0 || p.Off+p.Len > int64(len(bad)) || p.At < 0 {
					t.Fatalf("%+v", p)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
