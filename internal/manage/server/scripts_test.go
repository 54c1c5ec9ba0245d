package server

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/nfs"
)

func (r *rig) put(name, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.cfg.State, name), []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.cfg.State, name), mode); err != nil {
		r.t.Fatal(err)
	}
}

// A label of the node names postscripts, which come after those of the profile.
func TestNodesOwnScripts(t *testing.T) {
	r := start(t)
	r.put("profiles/imaging.yaml", "extends: imaging\npostscripts:\n  post:\n    - name: first\n      content: |\n        #!/bin/sh\n        true\n", 0o644)
	r.put("nfs/postscripts/a.sh", "#!/bin/sh\necho a\n", 0o755)
	r.put("nfs/postscripts/b", "#!/bin/sh\necho b\n", 0o755)
	r.put("nfs/postscripts/plain", "no program\n", 0o644)
	set := func(key, v string) api.NodeSet {
		return api.NodeSet{Range: "n1", Set: map[string]string{"label.postscripts." + key: v}}
	}
	r.fails("PATCH", "/v1/nodes", set("after", "a.sh"), "bad_request", "no stage")
	r.fails("PATCH", "/v1/nodes", set("post", "a.sh,../key"), "bad_request", "../key")
	job := func(key string) api.JobNew {
		return api.JobNew{Key: key, Kind: api.TaskCapture, Range: "n1", Image: "web"}
	}
	for v, want := range map[string]string{"missing": "no such file", "plain": "not executable", "a.sh,missing": "no such file"} {
		r.must("PATCH", "/v1/nodes", set("post", v), nil)
		e := r.fails("POST", "/v1/jobs", job(v), "bad_request", want)
		if !strings.Contains(e.Message, "n1: its label postscripts.post") || !strings.Contains(e.Hint, "nfs/postscripts") {
			t.Errorf("%+v", e)
		}
	}
	if r.node("n1").Boot != node.BootDisk {
		t.Error("a job that was refused left a boot state behind")
	}
	r.must("PATCH", "/v1/nodes", set("post", "a.sh,b"), nil)
	r.must("POST", "/v1/jobs", job("k"), nil)
	task := r.hello(r.boot(1), "b1")
	if len(task.Post) != 3 || task.Post[0].Name != "first" || task.Post[1].Name != "a.sh" || string(task.Post[2].Content) != "#!/bin/sh\necho b\n" || len(task.Pre)+len(task.Root) != 0 {
		t.Errorf("task %+v", task)
	}
	// A ready one needs no file, and is for its stage alone; a file of its name goes before it.
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{"label.postscripts.pre": "network"}}, nil)
	r.fails("POST", "/v1/jobs", api.JobNew{Key: "r", Kind: api.TaskCapture, Range: "n2", Image: "db"}, "bad_request", "for stage root")
	var all []api.ReadyScript
	r.must("GET", "/v1/postscripts", nil, &all)
	var one api.ReadyScript
	r.must("GET", "/v1/postscripts/network", nil, &one)
	r.fails("GET", "/v1/postscripts/nope", nil, "not_found", "nope")
	if len(all) < 2 || one.Stage != "root" || one.Content == "" {
		t.Errorf("%+v, %+v", one, all)
	}
	label := func(n string, set map[string]string) {
		r.must("PATCH", "/v1/nodes", api.NodeSet{Range: n, Set: set}, nil)
	}
	label("n2", map[string]string{"label.postscripts.pre": "", "label.postscripts.root": "network,b", "label.postscripts.first": "b", "label.postscripts.post": "a.sh"})
	s := &Server{cfg: r.cfg, db: r.db}
	deploy := func() (out api.Task) {
		n, err := s.db.Node(t.Context(), "n2")
		if err != nil {
			t.Fatal(err)
		}
		out.Kind = api.TaskDeploy
		if err := s.furnish(t.Context(), &out, n, netip.MustParseAddr("10.0.0.1")); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := deploy(); len(got.Root) != 2 || string(got.Root[0].Content) != one.Content {
		t.Errorf("%+v", got)
	}
	r.put("nfs/postscripts/network", "#!/bin/sh\necho own\n", 0o755)
	if got := deploy(); string(got.Root[0].Content) != "#!/bin/sh\necho own\n" {
		t.Errorf("%+v", got)
	}
	// With the folder mounted they run from there, except in a deployed system.
	s.nfs, s.cfg.NFS = &nfs.Server{}, "10.0.0.1:2049"
	got := deploy()
	if len(got.Post) != 2 || got.Post[1].Path != "/mnt/postscripts/a.sh" || got.Post[1].Content != nil {
		t.Errorf("%+v", got.Post)
	}
	for stage, inside := range map[string][]api.Postscript{"root": got.Root[1:], "first": got.First} {
		if len(inside) != 1 || inside[0].Path != "" || len(inside[0].Content) == 0 {
			t.Errorf("%s: %+v", stage, inside)
		}
	}
	// An answer file for Windows goes with a deploy; it need not be executable.
	r.fails("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{"label.windows.unattend": "../key"}}, "bad_request", "no name of a file")
	label("n2", map[string]string{"label.windows.unattend": "answers.xml"})
	n, err := s.db.Node(t.Context(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.furnish(t.Context(), &api.Task{Kind: api.TaskDeploy}, n, netip.MustParseAddr("10.0.0.1")); err == nil || !strings.Contains(err.Error(), "answers.xml: there is no such file") {
		t.Error(err)
	}
	r.put("nfs/postscripts/answers.xml", "<unattend/>", 0o644)
	r.fails("PATCH", "/v1/nodes", api.NodeSet{Range: "n2", Set: map[string]string{"label.deploy.uuids": "some"}}, "bad_request", "partitions or all")
	label("n2", map[string]string{"label.deploy.uuids": "all"})
	if got := deploy(); string(got.Unattend) != "<unattend/>" || got.UUIDs != "all" {
		t.Errorf("%q", got.Unattend)
	}
}

// What a profile, groups, an image and a node say adds up, the nearest last; each may take away what came before.
func TestScriptsAddUp(t *testing.T) {
	r := start(t)
	r.put("profiles/imaging.yaml", `extends: imaging
postscripts:
  pre:
    - {name: raid, content: "#!/bin/sh\n"}
    - {name: licence, content: "#!/bin/sh\n", tasks: [capture]}
  root:
    - {name: base, content: "#!/bin/sh\n", timeout: 90s}
    - {name: motd, content: "#!/bin/sh\n"}
`, 0o644)
	for _, name := range []string{"everywhere", "slow", "fast", "web", "mine", "motd"} {
		r.put("nfs/postscripts/"+name, "#!/bin/sh\n", 0o755)
	}
	group := func(name string, set map[string]string) {
		r.must("POST", "/v1/groups", api.GroupChange{Names: []string{name}, Set: set, New: name != "all"}, nil)
	}
	group("all", map[string]string{"label.postscripts.root": "everywhere"})
	group("first", map[string]string{"label.postscripts.root": "fast", "label.postscripts.pre.deploy": "fast"})
	group("second", map[string]string{"label.postscripts.root": "slow", "label.postscripts.pre": "slow"})
	say := func(set map[string]string) {
		r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: set}, nil)
	}
	say(map[string]string{"groups": "first,second", "label.postscripts.root": "mine"})
	image := func(set map[string]string) (im api.Image) {
		r.must("PATCH", "/v1/images/web", api.ImageSet{Set: set}, &im)
		return im
	}
	r.fails("PATCH", "/v1/images/web", api.ImageSet{Set: map[string]string{"postscripts.root.capture": "web"}}, "bad_request", "no stage")
	r.fails("PATCH", "/v1/images/web", api.ImageSet{Set: map[string]string{"motd": "web"}}, "bad_request", "there is no")
	r.fails("PATCH", "/v1/images/web", api.ImageSet{Set: map[string]string{"postscripts.root": "../web"}}, "bad_request", "no name")
	if im := image(map[string]string{"postscripts.root": "web", "postscripts.post.capture": "web", "postscripts.post": " "}); len(im.Set) != 2 {
		t.Errorf("%+v", im)
	}
	plan := func(query string) (p api.ScriptPlan, text string) {
		r.must("GET", "/v1/nodes/n1/postscripts?"+query, nil, &p)
		var out []string
		for _, s := range p.Scripts {
			out = append(out, s.Stage+":"+s.Name+"/"+s.From+" "+s.Of)
		}
		return p, strings.Join(out, ", ")
	}
	is := func(query, want string) api.ScriptPlan {
		t.Helper()
		p, got := plan(query)
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", query, got, want)
		}
		return p
	}
	const pre = "pre:raid/profile imaging, pre:slow/group second, pre:fast/group first, "
	const root = "root:base/profile imaging, root:motd/profile imaging, root:everywhere/group all, root:slow/group second, root:fast/group first, "
	p := is("", pre+root+"root:mine/node n1")
	if p.Task != api.TaskDeploy || p.Scripts[3].TimeoutMS != 90_000 || p.Scripts[3].Program != "in the profile" || p.Scripts[8].Key != "postscripts.root" || !strings.HasSuffix(p.Scripts[8].Program, "nfs/postscripts/mine") {
		t.Errorf("%+v", p)
	}
	is("image=web@3", pre+root+"root:web/image web, root:mine/node n1")
	is("task=capture&image=web", "pre:raid/profile imaging, pre:licence/profile imaging, pre:slow/group second, post:web/image web")
	is("task=wipe&image=web", "pre:raid/profile imaging, pre:slow/group second")
	r.fails("GET", "/v1/nodes/n1/postscripts?task=shell", nil, "bad_request", "shell")
	r.fails("GET", "/v1/nodes/nope/postscripts", nil, "not_found", "nope")
	// One takes away, one replaces at its place, one begins anew.
	image(map[string]string{"postscripts.root": "-slow,-unknown,motd"})
	p = is("image=web", pre+"root:base/profile imaging, root:motd/image web, root:everywhere/group all, root:fast/group first, root:mine/node n1")
	if len(p.Dropped) != 2 || p.Dropped[0].Name != "slow" || p.Dropped[0].DroppedBy != "image web" || p.Dropped[1].From != api.FromProfile {
		t.Errorf("%+v", p.Dropped)
	}
	say(map[string]string{"label.postscripts.root": "-*,mine"})
	p = is("image=web", pre+"root:mine/node n1")
	if len(p.Dropped) != 6 {
		t.Errorf("%+v", p.Dropped)
	}
	// What is missing is said with who names it, and a job is refused; what was taken away may be missing.
	image(map[string]string{"postscripts.pre": "gone", "postscripts.root": "gone"})
	if p, _ := plan("image=web"); p.Scripts[3].Name != "gone" || p.Scripts[3].Error == nil || !strings.Contains(p.Scripts[3].Error.Hint, "mimeo image set web postscripts.pre=") || p.Scripts[4].Error != nil {
		t.Errorf("%+v", p)
	}
	e := r.fails("POST", "/v1/jobs", api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}, "bad_request", "postscripts.pre of the image web names gone")
	if !strings.HasPrefix(e.Message, "n1: ") {
		t.Error(e.Message)
	}
	image(map[string]string{"postscripts.pre": ""})
	r.must("POST", "/v1/jobs", api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}, nil)
	task := r.hello(r.boot(1), "b1")
	if len(task.Pre) != 3 || task.Pre[0].Name != "raid" || len(task.Post) != 1 || task.Post[0].Name != "web" {
		t.Errorf("%+v", task)
	}
}

// A profile that is wrong is said when the job is made; one that becomes wrong later ends the job, and says so.
func TestProfileIsWrong(t *testing.T) {
	r := start(t)
	job := api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	r.fails("POST", "/v1/jobs", job, "bad_request", "sauce")
	os.Remove(filepath.Join(r.cfg.State, "profiles/imaging.yaml"))
	var jobs []api.Job
	r.must("POST", "/v1/jobs", job, &jobs)
	token := r.boot(1)
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	if task := r.hello(token, "b1"); task.Kind != api.TaskReboot {
		t.Errorf("task %+v", task)
	}
	j := r.job(jobs[0].ID)
	if j.Phase != api.PhaseFailed || j.Error == nil || !strings.Contains(j.Error.Message, "sauce") || r.node("n1").Boot != node.BootDisk {
		t.Errorf("%s, %+v", j.Phase, j.Error)
	}
	// A stateless boot is refused likewise; one whose profile becomes wrong later tells its agent, which asks again.
	r.fails("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, "bad_request", "sauce")
	os.Remove(filepath.Join(r.cfg.State, "profiles/imaging.yaml"))
	r.must("POST", "/v1/boot", api.BootSet{Range: "n2", State: node.BootStateless}, nil)
	token = r.boot(2)
	r.put("profiles/imaging.yaml", "extends: imaging\nmounts:\n- sauce: x\n", 0o644)
	code, e := r.call(token, "POST", api.PathHello, api.Hello{Version: api.AgentVersion, BootID: "b2"}, nil)
	if code/100 == 2 || !strings.Contains(e.Message, "sauce") {
		t.Errorf("%d %+v", code, e)
	}
}
