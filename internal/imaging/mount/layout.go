package mount

import (
	"fmt"
	"io"
	"math/bits"
	"path"
	"strconv"
	"strings"

	"mimeo/internal/imaging/browse"
)

// Shown says where a volume of the image is found below the mount's folder.
type Shown struct {
	Partition int    `json:"partition"`
	Name      string `json:"name,omitempty"` // of a volume inside the partition: "vg0/root"
	Type      string `json:"type"`
	Size      int64  `json:"size"`            // bytes
	Image     string `json:"image"`           // path of its bytes
	Files     string `json:"files,omitempty"` // path of its files, where they can be read
	Problem   string `json:"problem,omitempty"`
}

// node is a folder or an image file that we make up. The files of volumes have no nodes: see fsys.number.
type node struct {
	number uint64
	parent *node
	below  []child
	raw    *raw // of an image file
}

// child is a name in a folder.
type child struct {
	name   string
	number uint64
}

// raw is what an image file shows.
type raw struct {
	content io.ReaderAt
	size    int64
	stored  int64 // bytes of it that are not holes
	extents func(off int64, fn func(off, n int64) bool) error
}

// layout makes the folders and image files of an image, and opens its filesystems.
func (s *fsys) layout(image *browse.Image) error {
	root := s.add(nil, "")
	m := image.Disk().Manifest()
	disk := browse.Part{Size: image.Disk().Size(), Content: image.Disk()}
	s.add(root, "disk.img").raw = &raw{content: disk.Content, size: disk.Size, stored: m.Content.Used - m.Content.Zero, extents: image.Extents}
	volumes, files := s.add(root, "volumes"), s.add(root, "files")
	parts, err := image.Parts()
	if err != nil {
		s.log("%s: not all volumes are known: %v", s.name, err)
	}
	var trees []*node // the folder of each of s.vols; its last child is the volume's root
	for _, p := range parts {
		shown := Shown{Partition: p.Partition, Name: p.Name, Type: p.Type, Size: p.Size}
		words := []string{strconv.Itoa(p.Partition)}
		for w := range strings.SplitSeq(p.Name, "/") {
			if w != "" {
				words = append(words, safeName(w))
			}
		}
		stored := p.Used
		if p.Name != "" {
			stored = 0
			if err := p.Extents(0, func(_, n int64) bool { stored += n; return true }); err != nil {
				return fmt.Errorf("read the chunk list of partition %d, %s: %w", p.Partition, p.Name, err)
			}
		}
		dir, last := s.folder(volumes, words[:len(words)-1]), words[len(words)-1]
		last = dir.free(last, ".img")
		s.add(dir, last).raw = &raw{content: p.Content, size: p.Size, stored: min(stored, p.Size), extents: p.Extents}
		shown.Image = dir.path(last)
		if p.HasFiles() {
			v, err := p.Files()
			if err != nil {
				shown.Problem = err.Error()
				s.log("%s: the files of partition %d%s cannot be shown: %v", s.name, p.Partition, space(p.Name), err)
			} else {
				dir := s.folder(files, words[:len(words)-1])
				name := dir.free(words[len(words)-1], "")
				dir.below = append(dir.below, child{name: name})
				s.vols = append(s.vols, v)
				trees = append(trees, dir)
				shown.Files = dir.path(name)
			}
		}
		s.shown = append(s.shown, shown)
	}
	s.shift = uint(63 - bits.Len(uint(len(s.vols)))) // some programs take an inode number for a signed one
	for i, v := range s.vols {
		n, err := s.number(i, v.Root())
		if err != nil {
			return err
		}
		for j := range trees[i].below {
			if trees[i].below[j].number == 0 {
				trees[i].below[j].number = n
				break
			}
		}
	}
	return nil
}

func space(name string) string {
	if name == "" {
		return ""
	}
	return " " + name
}

// safeName makes a name out of a disk one that a folder can have.
func safeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == '/' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
	if s == "." || s == ".." {
		return "_"
	}
	return s[:min(len(s), 200)]
}

// add makes a node in a folder.
func (s *fsys) add(parent *node, name string) *node {
	n := &node{number: uint64(len(s.nodes) + 1), parent: parent}
	s.nodes = append(s.nodes, n)
	if parent != nil {
		parent.below = append(parent.below, child{name, n.number})
	}
	return n
}

// folder returns the folder at words below n, and makes what is missing.
func (s *fsys) folder(n *node, words []string) *node {
	for _, w := range words {
		var next *node
		for _, c := range n.below {
			if c.name == w && c.number != 0 && s.nodes[c.number-1].raw == nil {
				next = s.nodes[c.number-1]
			}
		}
		if next == nil {
			next = s.add(n, n.free(w, ""))
		}
		n = next
	}
	return n
}

// free returns name with its end, made another where the folder has it already.
func (n *node) free(name, end string) string {
	for i := 1; ; i++ {
		try := name + end
		if i > 1 {
			try = fmt.Sprintf("%s-%d%s", name, i, end)
		}
		taken := false
		for _, c := range n.below {
			taken = taken || c.name == try
		}
		if !taken {
			return try
		}
	}
}

// path returns where something in a folder is, from the mount's root on.
func (n *node) path(name string) string {
	for ; n.parent != nil; n = n.parent {
		for _, c := range n.parent.below {
			if c.number == n.number {
				name = path.Join(c.name, name)
			}
		}
	}
	return name
}
