package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// unattend reads the answer file for the setup of Windows that a node's label names; nil where none does.
func (s *Server) unattend(n node.Node) ([]byte, error) {
	name := n.Labels[node.LabelUnattend]
	if name == "" {
		return nil, nil
	}
	dir := filepath.Join(s.cfg.State, "nfs", "postscripts")
	text, err := readSmall(dir, name)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: its label %s names %s: %v", n.Name, node.LabelUnattend, name, err),
			Hint: fmt.Sprintf("put the answer file into %s, or change the label: mimeo node set %s label.%s=", dir, n.Name, node.LabelUnattend)}
	}
	return text, nil
}

// readSmall reads a file of a folder, of at most maxScript bytes, that no link leads out of it.
func readSmall(dir, name string) ([]byte, error) {
	if !node.IsScript(name) {
		return nil, errors.New("that is no name of a file there")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such file")
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, errors.New("it is no file")
	case fi.Size() == 0:
		return nil, errors.New("it is empty")
	case fi.Size() > maxScript:
		return nil, fmt.Errorf("it has %d bytes, more than %d", fi.Size(), maxScript)
	}
	return io.ReadAll(io.LimitReader(f, maxScript))
}
