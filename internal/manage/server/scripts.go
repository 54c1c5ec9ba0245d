package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/ready"
	"mimeo/internal/manage/stateless"
)

// maxScript bounds a postscript that goes with the task, in bytes.
const maxScript = 1 << 20

// nodeScripts are the postscripts of a stage that a node's label names. In the stateless image they run from the mount of
// the postscripts folder, so that they find files beside them; where that is not mounted, and in a deployed root, the
// program itself goes with the task. A name that the folder does not have may be that of a ready one.
func (s *Server) nodeScripts(n node.Node, stage string, mounts []stateless.Mount) ([]api.Postscript, error) {
	names := node.List(n.Labels[node.LabelScripts+stage])
	if len(names) == 0 {
		return nil, nil
	}
	dir := filepath.Join(s.cfg.State, "nfs", "postscripts")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("postscripts: %w", err)
	}
	defer root.Close()
	mounted := ""
	for _, m := range mounts {
		if s.nfs != nil && stage != "root" && stage != "first" && m.Source == "${MASTER}:/postscripts" {
			mounted = m.Target
		}
	}
	var out []api.Postscript
	for _, name := range names {
		wrong := func(format string, args ...any) error {
			return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: its label %s%s names %s: %s", n.Name, node.LabelScripts, stage, name, fmt.Sprintf(format, args...)),
				Hint: fmt.Sprintf("put the program into %s and make it executable, or change the label: mimeo node set %s label.%s%s=", dir, n.Name, node.LabelScripts, stage)}
		}
		if !node.IsScript(name) {
			return nil, wrong("that is no name of a postscript")
		}
		p := api.Postscript{Name: name}
		p.Content, err = readScript(root, name)
		if rs, ok := ready.Get(name); ok && errors.Is(err, fs.ErrNotExist) {
			if rs.Stage != stage {
				return nil, wrong("this ready postscript is for stage %s", rs.Stage)
			}
			p.Content = rs.Content
			out = append(out, p)
			continue
		}
		if err != nil {
			return nil, wrong("%v", err)
		}
		if mounted != "" {
			p.Path, p.Content = path.Join(mounted, name), nil
		}
		out = append(out, p)
	}
	return out, nil
}

func readScript(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("it is no file")
	case fi.Mode().Perm()&0o111 == 0:
		return nil, fmt.Errorf("it is not executable")
	case fi.Size() > maxScript:
		return nil, fmt.Errorf("it has %d bytes, more than %d", fi.Size(), maxScript)
	}
	return io.ReadAll(io.LimitReader(f, maxScript))
}

func (s *Server) listReady(*http.Request) (any, error) {
	out := []api.ReadyScript{}
	for _, r := range ready.List() {
		out = append(out, api.ReadyScript{Name: r.Name, Stage: r.Stage, About: r.About})
	}
	return out, nil
}

func (s *Server) showReady(r *http.Request) (any, error) {
	name := r.PathValue("name")
	rs, ok := ready.Get(name)
	if !ok {
		return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no ready postscript %q", name), Hint: "those that there are: mimeo postscript list"}
	}
	return api.ReadyScript{Name: rs.Name, Stage: rs.Stage, About: rs.About, Content: string(rs.Content)}, nil
}
