package exfat

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/fsmap/fact"
)

// stateImage is a volume with folders, files in one piece and files in several; tests make copies.
func stateImage(t testing.TB) []byte {
	t.Helper()
	img := mkfs(t, 3<<10, 512, "-c", "512", "-b", "64K")
	mounted(t, img, func(dir string) {
		r := rand.New(rand.NewPCG(3, 4))
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.MkdirAll(filepath.Join(dir, "FOLDER", "INNER"), 0o755))
		must(os.WriteFile(filepath.Join(dir, "PLAIN"), noise(r, 1500), 0o644))
		must(os.WriteFile(filepath.Join(dir, "EMPTY"), nil, 0o644))
		for range 5 {
			for _, name := range []string{"CHAIN", "FOLDER/INNER/OTHER"} {
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
				must(err)
				_, err = f.Write(noise(r, 700))
				must(err)
				must(f.Close())
			}
		}
	})
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// editor changes a volume.
type editor struct {
	t testing.TB
	b []byte
	v *volume
}

func edit(t testing.TB, b []byte) *editor {
	b = bytes.Clone(b)
	return &editor{t, b, open(t, b)}
}

// boots makes the checksums of both boot regions good, and the backup like the main one.
func (e *editor) boots() {
	n := (bootSectors + 1) * e.v.sector
	var s uint32
	for i, c := range e.b[:bootSectors*e.v.sector] {
		if i != 106 && i != 107 && i != 112 {
			s = s<<31 | s>>1
			s += uint32(c)
		}
	}
	for at := bootSectors * e.v.sector; at < n; at += 4 {
		le.PutUint32(e.b[at:], s)
	}
	copy(e.b[n:], e.b[:n])
}

// find returns the entries of a file by its name of at most 15 characters, and those of the system by their type.
func (e *editor) find(typ byte, name string) []byte {
	e.t.Helper()
	at := e.v.heapAt
	if typ != typeFile {
		at = e.v.place(e.v.root)
	}
	for ; at+3*entryLen <= int64(len(e.b)); at += entryLen {
		set := e.b[at : at+3*entryLen]
		if set[0] != typ {
			continue
		}
		var got []byte
		for i := range name {
			got = append(got, set[2*entryLen+2+2*i])
		}
		if string(got) == name && (name == "" || int(set[entryLen+3]) == len(name)) {
			return set
		}
	}
	e.t.Fatalf("no file %s", name)
	return nil
}

// file changes the entries of a file, whose checksum is made good.
func (e *editor) file(name string, change func(set []byte)) {
	e.t.Helper()
	set := e.find(typeFile, name)
	change(set)
	le.PutUint16(set[2:], sum(set))
}

func (e *editor) first(name string) cluster {
	e.t.Helper()
	return cluster(le.Uint32(e.find(typeFile, name)[entryLen+20:]))
}

// link writes an entry of the table of chains.
func (e *editor) link(n cluster, to uint32) { le.PutUint32(e.b[e.v.tableAt+int64(n)*4:], to) }

func (e *editor) next(n cluster) cluster { return cluster(le.Uint32(e.b[e.v.tableAt+int64(n)*4:])) }

// mark changes a bit of an allocation bitmap, which lies in one piece here.
func (e *editor) mark(n cluster, set bool) {
	m := e.bitmap(0)
	if i := int64(n - firstCluster); set {
		m.Set(i)
	} else {
		m.Clear(i)
	}
}

// tex makes a TexFAT of it, with a second table behind the first, and a second bitmap behind all files.
func (e *editor) tex(active byte) {
	e.t.Helper()
	v := e.v
	if v.tableAt+2*v.tableLen > v.heapAt {
		e.t.Fatal("no room for a second table")
	}
	e.b[110], e.b[106] = 2, active
	e.boots()
	old := bytes.Clone(e.find(typeBitmap, "")[:entryLen])
	n := (int64(le.Uint32(old[24:])) + v.clusterSize - 1) / v.clusterSize
	at := v.clusters + firstCluster - cluster(n)
	for i := range cluster(n) {
		e.mark(at+i, true)
		e.link(at+i, uint32(at+i+1))
	}
	e.link(at+cluster(n)-1, entryEnd)
	le.PutUint32(old[20:], uint32(at))
	old[1] = 1
	copy(e.b[v.place(at):], e.b[v.place(cluster(le.Uint32(e.find(typeBitmap, "")[20:]))):][:n*v.clusterSize])
	copy(e.b[v.tableAt+v.tableLen:], e.b[v.tableAt:v.tableAt+v.tableLen])
	root := e.find(typeBitmap, "")[:0]
	for root = root[:cap(root)]; root[0] != 0; root = root[entryLen:] {
	}
	copy(root, old)
}

// bitmap is the allocation bitmap that an entry of the root, the first or the second, leads to.
func (e *editor) bitmap(which byte) fact.Bitmap {
	e.t.Helper()
	for at := e.v.place(e.v.root); at < int64(len(e.b)); at += entryLen {
		if d := e.b[at:]; d[0] == typeBitmap && d[1] == which {
			return e.b[e.v.place(cluster(le.Uint32(d[20:]))):][:le.Uint32(d[24:])]
		}
	}
	e.t.Fatalf("no bitmap %d", which)
	return nil
}
