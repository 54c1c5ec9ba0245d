// Package leaveout finds the files of a volume whose content need not be captured.
//
// What is left out is captured as zeros: the file is there with its size, owner and name, and reads as zeros. Metadata
// is never touched. A file that shares its blocks with another, or has another name that no rule is about, is kept.
package leaveout

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// Rules say which files to leave out.
type Rules struct {
	// Patterns name files and directories; a directory stands for all below it. One that begins with "/" is matched
	// from the root on, any other against the last part of each path. "*", "?" and "[...]" match within one part, "**"
	// as a part of its own matches any number of parts. Upper and lower case differ.
	Patterns []string
	// Swap leaves out what systems swap to and hibernate in: the swap files of Linux (all but their header) and the page
	// and hibernation files of Windows.
	Swap bool
}

// Check refuses patterns that cannot match.
func (r Rules) Check() error {
	for _, p := range r.Patterns {
		if p == "" || path.Clean(p) == "/" || len(p) > 4096 {
			return fmt.Errorf("leave out %q: want a path below / or a name", p)
		}
		for _, part := range strings.Split(p, "/") {
			if _, err := path.Match(part, ""); err != nil {
				return fmt.Errorf("leave out %q: %w", p, err)
			}
			if part == ".." {
				return fmt.Errorf("leave out %q: a path with .. is not followed", p)
			}
		}
	}
	return nil
}

// Found is what was found to be left out.
type Found struct {
	Extents extent.List // in bytes of the volume
	Files   int
	Notes   []string // of what a rule names and what is kept all the same, and of what could not be read
}

const (
	swapHeader = 64 << 10 // kept of a swap file: a page, of any architecture
	maxNotes   = 20
)

// windows are the files that Windows swaps to and hibernates in, at the root of a volume.
var windows = map[string]bool{"pagefile.sys": true, "swapfile.sys": true, hiberfil: true}

// Claims calls add with every stretch of the volume that something of the filesystem says is its own. why says why not
// all could be told, or is empty.
type Claims func(add func(extent.Extent)) (why string, err error)

// Find returns what the rules leave out of a volume, so far as nothing else of the filesystem claims the same blocks:
// in a damaged one, two files may. Damage is noted, and what is damaged is kept. An error means that the rules make no
// sense, or that the volume could not be read.
func Find(fs tree.FS, rules Rules, claims Claims) (Found, error) {
	found, list, err := find(fs, rules)
	if err != nil || len(list) == 0 {
		return found, err
	}
	times := make([]int64, len(list)) // bytes that were claimed of each stretch
	why, err := claims(func(e extent.Extent) {
		i, _ := slices.BinarySearchFunc(list, e.Off, func(x extent.Extent, off int64) int {
			if x.End() <= off {
				return -1
			}
			return 1
		})
		for ; i < len(list) && list[i].Off < e.End(); i++ {
			x := list[i]
			times[i] += min(x.End(), e.End()) - max(x.Off, e.Off)
		}
	})
	if err != nil {
		return Found{}, err
	}
	if why != "" {
		return Found{Notes: append(found.Notes, "nothing is left out: "+why)}, nil
	}
	var alone []extent.Extent
	for i, x := range list {
		if times[i] == x.Len {
			alone = append(alone, x)
		}
	}
	if n := len(list) - len(alone); n > 0 {
		found.Notes = append(found.Notes, fmt.Sprintf("%d stretches are kept: another file claims them too", n))
	}
	found.Extents = extent.FromUnsorted(alone)
	return found, nil
}

// find walks the files of a volume, and returns the stretches that the rules leave out, in ascending order. Stretches side
// by side stay apart, so that the copies of a file, with other files beside each, have the same fate.
func find(fs tree.FS, rules Rules) (Found, []extent.Extent, error) {
	if err := rules.Check(); err != nil {
		return Found{}, nil, err
	}
	f := &finder{fs: fs}
	for _, p := range rules.Patterns {
		f.patterns = append(f.patterns, newPattern(p))
	}
	if rules.Swap {
		f.swap()
	}
	if len(f.patterns) > 0 {
		root, err := fs.File(fs.Root())
		if err != nil {
			f.note("its root cannot be read: %v", err)
		} else {
			f.walk(root)
		}
	}
	if f.summed > 0 {
		f.found.Notes = append(f.found.Notes, fmt.Sprintf("%d files are kept, %s the first: each has checksums, with which zeros would not agree", f.summed, f.summedName))
	}
	slices.SortFunc(f.es, func(a, b extent.Extent) int { return cmp.Compare(a.Off, b.Off) })
	var list []extent.Extent
	for _, e := range f.es {
		if n := len(list); n > 0 && e.Off < list[n-1].End() {
			list[n-1].Len = max(list[n-1].End(), e.End()) - list[n-1].Off
		} else {
			list = append(list, e)
		}
	}
	return f.found, list, nil
}

type finder struct {
	fs       tree.FS
	patterns []pattern
	found    Found
	es       []extent.Extent
	notes    int

	summed     int // files that are kept as they have checksums
	summedName string
}

func (f *finder) note(format string, args ...any) {
	f.notes++
	switch {
	case f.notes < maxNotes:
		f.found.Notes = append(f.found.Notes, fmt.Sprintf(format, args...))
	case f.notes == maxNotes:
		f.found.Notes = append(f.found.Notes, "more files are kept, or cannot be read")
	}
}

// walk looks at all files that a pattern may match. Below a directory that is matched everything is left out.
func (f *finder) walk(root tree.File) {
	below := "" // the directory that was matched last
	_ = tree.Walk(f.fs, "/", root, func(name string, g tree.File, err error) error {
		if err != nil {
			f.note("%v", err)
			return nil
		}
		if below != "" && !strings.HasPrefix(name, below+"/") {
			below = ""
		}
		if below == "" && !f.matches(name) {
			if g.IsDir() && !f.reaches(name) {
				return tree.SkipDir
			}
			return nil
		}
		switch g.Type() {
		case tree.Dir:
			if below == "" {
				below = name
			}
		case tree.Regular:
			f.leave(name, g, 0)
		}
		return nil
	})
}

func (f *finder) matches(name string) bool {
	return slices.ContainsFunc(f.patterns, func(p pattern) bool { return p.match(name) })
}

// reaches tells whether a pattern may match something below a directory.
func (f *finder) reaches(dir string) bool {
	return slices.ContainsFunc(f.patterns, func(p pattern) bool { return p.reaches(dir) })
}

// leave leaves the content of a file out, but for its first bytes.
func (f *finder) leave(name string, g tree.File, keep int64) {
	if g.Size <= keep {
		return
	}
	if g.Links > 1 {
		f.note("%s is kept: it has another name", name)
		return
	}
	pieces, err := f.pieces(g)
	switch {
	case errors.Is(err, tree.ErrSummed):
		if f.summed++; f.summed == 1 {
			f.summedName = name
		}
		return
	case err != nil:
		f.note("%s is kept: %v", name, err)
		return
	case len(pieces) == 0:
		return // so small that it lies within metadata, or kept in a way of its own
	}
	f.found.Files++
	for _, e := range pieces {
		if cut := min(max(keep-e.At, 0), e.Len); cut < e.Len {
			f.es = append(f.es, extent.Extent{Off: e.Off + cut, Len: e.Len - cut})
		}
	}
}

// pieces returns where a file lies.
func (f *finder) pieces(g tree.File) ([]fact.Piece, error) {
	if s, ok := f.fs.(tree.Summed); ok {
		return s.Bare(g.Inode)
	}
	r, err := f.fs.Open(g.Inode)
	if p, ok := r.(*tree.Pieced); ok && err == nil {
		return p.Pieces, nil
	}
	return nil, err
}

// swap finds swap, page and hibernation files.
func (f *finder) swap() {
	for name := range windows {
		g, err := tree.Lookup(f.fs, "/"+name, false)
		if err != nil || g.Type() != tree.Regular {
			continue
		}
		if name == hiberfil && wakes(f.fs, g) {
			f.note("/hiberfil.sys is kept: a Windows sleeps in it, which was hibernated, or shut down with fast startup")
			continue
		}
		f.leave("/"+name, g, 0)
	}
	roots := []uint64{f.fs.Root()}
	s, several := f.fs.(tree.Summed)
	if several {
		roots = s.Roots()
		roots = roots[:min(len(roots), maxRoots)]
	}
	var names []string
	for _, root := range roots {
		names = swapFiles(rooted{f.fs, root}, names)
	}
	if several { // what is /swap/file to the system may be /file of what it mounts at /swap
		for _, name := range names {
			for i := 1; i < len(name); i++ {
				if name[i] == '/' && !slices.Contains(names, name[i:]) {
					names = append(names, name[i:])
				}
			}
		}
	}
	seen := map[uint64]bool{}
	for _, root := range roots {
		for _, name := range names[:min(len(names), maxSwaps)] {
			g, err := tree.Lookup(rooted{f.fs, root}, name, true)
			if err != nil || g.Type() != tree.Regular || seen[g.Inode] {
				continue
			}
			seen[g.Inode] = true
			if r, err := f.fs.Open(g.Inode); err == nil && isSwap(r) {
				f.leave(name, g, swapHeader)
			}
		}
	}
}

// Of a filesystem with several roots, so many are looked through for swap files, and so many names are tried in each.
const (
	maxRoots = 256
	maxSwaps = 64
)

// rooted is a filesystem as it looks from one of its roots.
type rooted struct {
	tree.FS
	root uint64
}

// Root implements tree.FS.
func (r rooted) Root() uint64 { return r.root }

const hiberfil = "hiberfil.sys"

// Sleeps tells whether a Windows may sleep on a volume, which is to wake up and must find it as it was.
func Sleeps(fs tree.FS) bool {
	g, err := tree.Lookup(fs, "/"+hiberfil, false)
	if errors.Is(err, tree.ErrNotFound) {
		return false
	}
	return err != nil || g.Type() == tree.Regular && sleeps(fs, g)
}

// sleeps tells whether a hibernation file may hold a system that is to wake up. Whoever is to write to the volume should
// not do so where it is not known.
func sleeps(fs tree.FS, g tree.File) bool {
	head, ok := signature(fs, g)
	// "wake" is what is left after it woke up, and zeros where it never slept.
	return !ok && g.Size > 0 || ok && head != "wake" && head != "\x00\x00\x00\x00"
}

// wakes tells whether a hibernation file is one that Windows wakes up from. By any other signature than these it starts
// afresh.
func wakes(fs tree.FS, g tree.File) bool {
	head, ok := signature(fs, g)
	return !ok && g.Size > 0 || head == "hibr" || head == "rstr" || head == "link" || head == "horm"
}

// signature returns the first four bytes of a hibernation file in lower case, and whether they could be read.
func signature(fs tree.FS, g tree.File) (string, bool) {
	r, err := fs.Open(g.Inode)
	if err != nil {
		return "", false
	}
	head := make([]byte, 4)
	n, _ := r.ReadAt(head, 0)
	return strings.ToLower(string(head)), n == len(head)
}

// swapFiles adds to names where a Linux system may have swap files.
func swapFiles(fs tree.FS, names []string) []string {
	add := func(name string) {
		if !slices.Contains(names, name) && len(names) < maxSwaps {
			names = append(names, name)
		}
	}
	for _, name := range []string{"/swapfile", "/swap.img", "/var/swap", "/var/swapfile"} {
		add(name)
	}
	fstab, err := tree.Lookup(fs, "/etc/fstab", true)
	if err != nil || fstab.Type() != tree.Regular {
		return names
	}
	r, err := fs.Open(fstab.Inode)
	if err != nil {
		return names
	}
	lines := bufio.NewScanner(io.NewSectionReader(r, 0, min(fstab.Size, 1<<20)))
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) >= 3 && w[2] == "swap" && strings.HasPrefix(w[0], "/") && !strings.HasPrefix(w[0], "/dev/") {
			add(path.Clean(w[0]))
		}
	}
	return names
}

// isSwap tells whether a file has the header of a swap area: a word at the end of the first page, whose size differs
// between architectures.
func isSwap(r io.ReaderAt) bool {
	head := make([]byte, swapHeader)
	if n, _ := r.ReadAt(head, 0); n < len(head) {
		return false
	}
	for page := 4096; page <= len(head); page *= 2 {
		if bytes.Equal(head[page-10:page], []byte("SWAPSPACE2")) {
			return true
		}
	}
	return false
}

// pattern is a pattern in its parts.
type pattern struct {
	parts    []string
	anchored bool
}

func newPattern(s string) pattern {
	return pattern{parts: strings.Split(strings.Trim(path.Clean(s), "/"), "/"), anchored: strings.HasPrefix(s, "/")}
}

func (p pattern) match(name string) bool {
	parts := strings.Split(strings.Trim(name, "/"), "/")
	if p.anchored {
		return matchParts(p.parts, parts)
	}
	return len(parts) >= len(p.parts) && matchParts(p.parts, parts[len(parts)-len(p.parts):])
}

func (p pattern) reaches(dir string) bool {
	if !p.anchored || dir == "/" {
		return true
	}
	parts := strings.Split(strings.Trim(dir, "/"), "/")
	for i, part := range parts {
		if i == len(p.parts) {
			return false
		}
		if p.parts[i] == "**" {
			return true
		}
		if ok, _ := path.Match(p.parts[i], part); !ok {
			return false
		}
	}
	return len(p.parts) > len(parts)
}

func matchParts(pattern, parts []string) bool {
	// The last "**" seen, and where it began to match: going back to it is enough, as with "*" in a name.
	star, from := -1, 0
	i, j := 0, 0
	for j < len(parts) {
		if i < len(pattern) {
			if pattern[i] == "**" {
				star, from = i, j
				i++
				continue
			}
			if ok, _ := path.Match(pattern[i], parts[j]); ok {
				i, j = i+1, j+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		i, j = star+1, from
	}
	for i < len(pattern) && pattern[i] == "**" {
		i++
	}
	return i == len(pattern)
}
