package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/manage/ready"
	"mimeo/internal/manage/stateless"
)

// maxScript bounds a postscript that goes with the task, in bytes.
const maxScript = 1 << 20

// planned is a postscript that a node would run, or that was taken away.
type planned struct {
	api.PlannedScript
	run api.Postscript
}

// scripts are a node's postscripts for a task: first those of the profile, and what groups, image and node say each changes
// the list (docs/postscripts.md, "Whose postscripts"). What cannot run has an Error.
func (s *Server) scripts(ctx context.Context, n node.Node, kind api.TaskKind, image string, p stateless.Profile) (list, dropped []planned, err error) {
	from, err := s.db.Sources(ctx, n.Name)
	if err != nil {
		return nil, nil, err
	}
	var said map[string]string
	if image != "" {
		if said, err = s.db.ImageSet(ctx, image); err != nil {
			return nil, nil, err
		}
	}
	dir := filepath.Join(s.cfg.State, "nfs", "postscripts")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("postscripts: %w", err)
	}
	defer root.Close()
	f := finder{s: s, node: n.Name, dir: dir, root: root, mounts: p.Mounts}
	for _, stage := range node.ScriptStages {
		if !node.InTask(stage, string(kind)) {
			continue
		}
		var now []planned
		take := func(i int, by api.PlannedScript) {
			now[i].DroppedBy = strings.TrimSpace(by.From + " " + by.Of)
			dropped = append(dropped, now[i])
		}
		apply := func(by api.PlannedScript, items []string) {
			for _, item := range items {
				name, drop := strings.CutPrefix(item, "-")
				if item == node.DropAll {
					for i := range now {
						take(i, by)
					}
					now = nil
					continue
				}
				i := slices.IndexFunc(now, func(p planned) bool { return p.Name == name })
				switch {
				case i >= 0 && drop:
					take(i, by)
					now = slices.Delete(now, i, i+1)
				case i >= 0:
					take(i, by)
					now[i] = f.find(by, name)
				case !drop:
					now = append(now, f.find(by, name))
				}
			}
		}
		for _, ps := range p.Stage(stage) {
			if len(ps.Tasks) > 0 && !slices.Contains(ps.Tasks, string(kind)) {
				continue
			}
			run := ps.API()
			pl := planned{run: run, PlannedScript: api.PlannedScript{Stage: stage, Name: ps.Name, From: api.FromProfile, Of: p.Name, Program: cmp.Or(run.Path, "in the profile"), TimeoutMS: run.TimeoutMS}}
			now = append(now, pl)
		}
		lists := from.Scripts(n.Name, stage, string(kind))
		own := slices.IndexFunc(lists, func(l node.ScriptList) bool { return l.From == node.FromOwn })
		if own < 0 {
			own = len(lists)
		}
		for _, l := range lists[:own] {
			apply(api.PlannedScript{Stage: stage, From: node.FromGroup, Of: l.Group, Key: node.LabelScripts + l.Key}, l.Items)
		}
		for _, key := range []string{stage, stage + "." + string(kind)} {
			key = node.LabelScripts + key
			apply(api.PlannedScript{Stage: stage, From: api.FromImage, Of: image, Key: key}, node.List(said[key]))
		}
		for _, l := range lists[own:] {
			apply(api.PlannedScript{Stage: stage, From: api.FromNode, Of: string(n.Name), Key: node.LabelScripts + l.Key}, l.Items)
		}
		list = append(list, now...)
	}
	return list, dropped, nil
}

// finder finds the programs of postscripts that are named.
type finder struct {
	s      *Server
	node   node.Name
	dir    string // the postscripts folder, which root is
	root   *os.Root
	mounts []stateless.Mount
}

// find is the postscript of a name. In the stateless image it runs from the mount of the postscripts folder, so that it
// finds files beside it; where that is not mounted, and in a deployed system, the program itself goes with the task. A name
// that the folder does not have may be that of a ready one.
func (f finder) find(by api.PlannedScript, name string) planned {
	p := planned{PlannedScript: by, run: api.Postscript{Name: name}}
	p.Name, p.Program = name, filepath.Join(f.dir, name)
	content, err := readScript(f.root, name)
	rs, ready := ready.Get(name)
	switch {
	case ready && errors.Is(err, fs.ErrNotExist):
		p.Program = "comes with Mimeo"
		if p.run.Content = rs.Content; rs.Stage != by.Stage {
			p.Error = f.wrong(by, name, fmt.Sprintf("this ready postscript is for stage %s", rs.Stage))
		}
	case err != nil:
		p.Error = f.wrong(by, name, err.Error())
	default:
		p.run.Content = content
		for _, m := range f.mounts {
			if f.s.nfs != nil && by.Stage != "root" && by.Stage != "first" && m.Source == "${MASTER}:/postscripts" {
				p.run.Path, p.run.Content = path.Join(m.Target, name), nil
			}
		}
	}
	return p
}

func (f finder) wrong(by api.PlannedScript, name, what string) *api.Error {
	label, change := "label."+by.Key, "mimeo node set "+by.Of
	whose := fmt.Sprintf("its label %s", by.Key)
	switch by.From {
	case node.FromGroup:
		whose, change = fmt.Sprintf("the label %s of its group %s", by.Key, by.Of), "mimeo group set "+by.Of
	case api.FromImage:
		whose, label, change = fmt.Sprintf("%s of the image %s", by.Key, by.Of), by.Key, "mimeo image set "+by.Of
	}
	return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %s names %s: %s", f.node, whose, name, what),
		Hint: fmt.Sprintf("put the program into %s and make it executable, or change what names it: %s %s=", f.dir, change, label)}
}

// explainScripts says which postscripts a node would run in a task, and changes nothing.
func (s *Server) explainScripts(r *http.Request) (any, error) {
	n, err := s.node(r.Context(), node.Name(r.PathValue("name")))
	if err != nil {
		return nil, err
	}
	out := api.ScriptPlan{Node: n.Name, Task: api.TaskKind(cmp.Or(r.FormValue("task"), string(api.TaskDeploy))), Image: r.FormValue("image"), Scripts: []api.PlannedScript{}}
	out.Image, _, _ = strings.Cut(out.Image, "@") // all revisions of an image have the same
	if !slices.Contains(node.ScriptTasks, string(out.Task)) {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("no task %q runs postscripts", out.Task), Hint: "want " + strings.Join(node.ScriptTasks, ", ")}
	}
	if out.Task != api.TaskDeploy && out.Task != api.TaskCapture {
		out.Image = "" // the others have none
	}
	if out.Image != "" && manifest.ValidName(out.Image) != nil {
		return nil, noImage(out.Image)
	}
	p, err := stateless.LoadProfile(s.cfg.State, cmp.Or(n.Profile, "imaging"))
	if err != nil {
		return nil, err
	}
	out.Profile = p.Name
	list, dropped, err := s.scripts(r.Context(), n, out.Task, out.Image, p)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		out.Scripts = append(out.Scripts, p.PlannedScript)
	}
	for _, p := range dropped {
		p.Error = nil // it does not run
		out.Dropped = append(out.Dropped, p.PlannedScript)
	}
	return out, nil
}

// setImage changes what is said of an image.
func (s *Server) setImage(r *http.Request) (any, error) {
	name := r.PathValue("name")
	req, err := read[api.ImageSet](r)
	if err != nil {
		return nil, err
	}
	if err := manifest.ValidName(name); err != nil {
		return nil, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	for k, v := range req.Set {
		v = strings.TrimSpace(v)
		if err := node.CheckScripts(k, v); err != nil {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %v", k, err), Hint: "mimeo image set --help"}
		}
		req.Set[k] = v
	}
	if err := s.db.PutImageSet(r.Context(), name, req.Set); err != nil {
		return nil, err
	}
	return s.image(r.Context(), name)
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
