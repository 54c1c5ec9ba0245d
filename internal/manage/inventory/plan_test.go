package inventory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// do plans and makes a change.
func do(t *testing.T, d *DB, e Edits) (p *Planned) {
	t.Helper()
	update(t, d, func(tx *Tx) (err error) {
		if p, err = tx.Plan(e); err != nil {
			return err
		}
		return tx.Apply(p)
	})
	return p
}

func edit(name string, kv ...string) Edit {
	e := Edit{Name: name, Set: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		e.Set[kv[i]] = kv[i+1]
	}
	return e
}

func TestPlan(t *testing.T) {
	d := open(t, t.TempDir())
	p := do(t, d, Edits{Groups: []Edit{edit("rack3", "bmc", "redfish://10.0.9.{n}", "bmc.user", "ops", "bmc.password", "geheim")},
		Nodes: []Edit{edit("n1", "groups", "rack3", "mac", "02-00-00-00-00-01"), edit("n02", "groups", "new,rack3", "profile", "own")}})
	want := api.Plan{ID: p.ID, Applied: true,
		Groups: []api.PlanItem{{Name: "new", New: true}, {Name: "rack3", New: true, Keys: []api.PlanKey{{Key: "bmc", New: "redfish://10.0.9.{n}"}, {Key: "bmc.user", New: "ops"}, {Key: "bmc.password", New: "(set)"}}}},
		Nodes: []api.PlanItem{{Name: "n02", New: true, Keys: []api.PlanKey{{Key: "groups", New: "new,rack3"}, {Key: "profile", New: "own"}}},
			{Name: "n1", New: true, Keys: []api.PlanKey{{Key: "groups", New: "rack3"}, {Key: "mac", New: "02:00:00:00:00:01"}}}}}
	if diff := cmp.Diff(want, p.Plan); diff != "" {
		t.Error(diff)
	}
	got, err := d.Node(t.Context(), "n02")
	if err != nil || got.BMC.URL != "redfish://10.0.9.2" || got.BMC.User != "ops" || !got.BMC.HasPassword || got.Profile != "own" {
		t.Errorf("%+v, %v", got, err)
	}
	for n, want := range map[node.Name]string{"n1": "geheim", "n02": "geheim"} {
		if pw, err := d.BMCPassword(t.Context(), n); err != nil || pw != want {
			t.Errorf("%s: %q, %v", n, pw, err)
		}
	}

	// The order of a node's groups decides; its own goes before; the group of all comes last.
	p = do(t, d, Edits{Groups: []Edit{edit("new", "bmc.user", "root", "bmc.password", "first"), edit("all", "bmc.user", "nobody", "label.site", "x{n}")}, Nodes: []Edit{edit("n1", "bmc.password", "mine")}})
	affected := []api.PlanEffect{
		{PlanKey: api.PlanKey{Key: "bmc.user", Old: "ops", New: "root"}, Nodes: []node.Name{"n02"}},
		{PlanKey: api.PlanKey{Key: "bmc.password", Old: "(set)", New: "(set anew)"}, Nodes: []node.Name{"n02", "n1"}},
		{PlanKey: api.PlanKey{Key: "label.site", New: "x2"}, Nodes: []node.Name{"n02"}},
		{PlanKey: api.PlanKey{Key: "label.site", New: "x1"}, Nodes: []node.Name{"n1"}},
	}
	if diff := cmp.Diff(affected, p.Affected); diff != "" {
		t.Error(diff)
	}
	for n, want := range map[node.Name]string{"n1": "mine", "n02": "first"} {
		if pw, err := d.BMCPassword(t.Context(), n); err != nil || pw != want {
			t.Errorf("%s: %q, %v", n, pw, err)
		}
	}
	s, err := d.Sources(t.Context(), "n02")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Explain("n02") {
		if a.Key == "bmc.user" {
			want := node.Explained{Key: "bmc.user", Said: node.Said{Value: "root", From: "group", Group: "new"}, Also: []node.Said{{Value: "ops", From: "group", Group: "rack3"}, {Value: "nobody", From: "group", Group: "all"}}}
			if diff := cmp.Diff(want, a); diff != "" {
				t.Error(diff)
			}
		}
	}
	// The same once more changes nothing, and neither does a password that is the same.
	if p := do(t, d, Edits{Groups: []Edit{edit("new", "bmc.user", "root", "bmc.password", "first")}, Nodes: []Edit{edit("n1", "groups+", "rack3")}}); len(p.Groups)+len(p.Nodes)+len(p.Affected) != 0 || p.Same != 2 {
		t.Errorf("%+v", p.Plan)
	}
	// A group's password that is moved to another group opens nothing.
	if _, err := d.sql.Exec(`UPDATE groups SET bmc_sealed = (SELECT bmc_sealed FROM groups WHERE name = 'rack3') WHERE name = 'new'`); err != nil {
		t.Fatal(err)
	}
	if pw, err := d.BMCPassword(t.Context(), "n02"); pw != "" || err == nil || !strings.Contains(err.Error(), "group new") {
		t.Errorf("%q, %v", pw, err)
	}
	// A group that is taken away leaves its nodes.
	p = do(t, d, Edits{Groups: []Edit{{Name: "new", Remove: true, Make: MustBeThere}}})
	if len(p.Nodes) != 1 || p.Nodes[0].Keys[0] != (api.PlanKey{Key: "groups", Old: "new,rack3", New: "rack3"}) {
		t.Errorf("%+v", p.Plan)
	}
	if pw, err := d.BMCPassword(t.Context(), "n02"); err != nil || pw != "geheim" {
		t.Errorf("%q, %v", pw, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	d := open(t, t.TempDir())
	do(t, d, Edits{Groups: []Edit{edit("rack3")}, Nodes: []Edit{edit("n1", "mac", "02:00:00:00:00:01,02:00:00:00:00:02", "ip", "-,10.0.0.1"), edit("n2", "mac", "02:00:00:00:00:03"), edit("odd", "groups", "rack3")}})
	for _, tc := range []struct {
		name       string
		e          Edits
		code, text string
	}{
		{"another's card", Edits{Nodes: []Edit{edit("n3", "mac", "02:00:00:00:00:02")}}, "conflict", "n3: 02:00:00:00:00:02 belongs to n1 already"},
		{"another's address", Edits{Nodes: []Edit{edit("n2", "ip", "10.0.0.1")}}, "conflict", "n2: 10.0.0.1 belongs to n1"},
		{"more addresses than cards", Edits{Nodes: []Edit{edit("n2", "ip", "10.0.0.2,10.0.0.3")}}, "bad_request", "2 addresses for 1"},
		{"cards away, addresses not", Edits{Nodes: []Edit{edit("n1", "mac", "")}}, "bad_request", "set mac first"},
		{"no number in a name", Edits{Groups: []Edit{edit("rack3", "bmc", "ipmi://10.0.0.{n}")}}, "bad_request", "odd: bmc: from group rack3: {n}"},
		{"one address for all", Edits{Groups: []Edit{edit("rack3", "bmc", "ipmi://10.0.0.1")}}, "bad_request", "want {name} or {n}"},
		{"a pattern that makes no URL", Edits{Groups: []Edit{edit("rack3", "bmc", "{name}")}}, "bad_request", "want ipmi://"},
		{"a card of a group", Edits{Groups: []Edit{edit("rack3", "mac", "02:00:00:00:00:09")}}, "bad_request", "belongs to one node"},
		{"a group of a group", Edits{Groups: []Edit{edit("rack3", "groups+", "x")}}, "bad_request", "belongs to one node"},
		{"a bad name", Edits{Nodes: []Edit{edit("N1")}}, "bad_request", "no name for a node"},
		{"a bad group", Edits{Nodes: []Edit{edit("n1", "groups+", "a[1]")}}, "bad_request", "no name for a group"},
		{"no label", Edits{Nodes: []Edit{edit("n1", "label.a b", "x")}}, "bad_request", "no name for a label"},
		{"no stage", Edits{Groups: []Edit{edit("rack3", "label.postscripts.later", "x")}}, "bad_request", `no stage "later"`},
		{"a line in a value", Edits{Nodes: []Edit{edit("n1", "knobs.cmdline", "a\nb")}}, "bad_request", "no text"},
		{"not there", Edits{Groups: []Edit{{Name: "x", Make: MustBeThere}}}, "not_found", `no group "x"`},
		{"all at once", Edits{Nodes: []Edit{edit("n4", "mac", "x"), edit("n5", "colour", "red")}}, "bad_request", "2 things are wrong:\n  n4: mac: "},
	} {
		err := d.Update(t.Context(), func(tx *Tx) error {
			p, err := tx.Plan(tc.e)
			if err == nil {
				err = fmt.Errorf("planned %+v", p.Plan)
			}
			return err
		})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Message, tc.text) {
			t.Errorf("%s: %v, want %s %s", tc.name, err, tc.code, tc.text)
		}
	}
	// Two nodes may swap their cards, and addresses, in one change.
	do(t, d, Edits{Nodes: []Edit{edit("n1", "mac", "02:00:00:00:00:03", "ip", ""), edit("n2", "mac", "02:00:00:00:00:02,02:00:00:00:00:01", "ip", "10.0.0.1")}})
	if n, ok, err := d.NodeByMAC(t.Context(), "02:00:00:00:00:03"); err != nil || !ok || n.Name != "n1" {
		t.Errorf("%v %v %v", n.Name, ok, err)
	}
	if mac, ok, err := d.OwnerOf(t.Context(), "10.0.0.1"); err != nil || !ok || mac != "02:00:00:00:00:02" {
		t.Errorf("%v %v %v", mac, ok, err)
	}
	p := do(t, d, Edits{Nodes: []Edit{edit("n1", "bmc", "ipmi://10.0.0.9"), edit("n2", "bmc", "ipmi://10.0.0.9", "hostname", "x")}})
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "n1 and n2 have the same bmc") {
		t.Errorf("%q", p.Warnings)
	}
	if p := do(t, d, Edits{Groups: []Edit{edit("n2")}}); len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "a node n2 and a group n2") {
		t.Errorf("%q", p.Warnings)
	}
}

// errUndo undoes what a transaction has done.
var errUndo = errors.New("undo")

// A plan tells the truth: what it says will be in effect is what is in effect after it, and nothing else; made again it
// changes nothing; and what an export says makes the same inventory anew.
func TestPlanTellsTheTruth(t *testing.T) {
	d := open(t, t.TempDir())
	names, groups := []string{"n1", "n02", "x-3", "m4"}, []string{"a", "b", "c", "all"}
	both := map[string][]string{"profile": {"", "p", "q"}, "bmc.user": {"", "u{n}", "v"}, "label.row": {"", "7", "{n}", "{name}"}, "bmc.insecure": {"", "true", "false"}, "arch": {"", "amd64", "arm64"}, "bmc.password": {"", "one", "two"}}
	draw := func(rt *rapid.T, isGroup bool, all []string) (out []Edit) {
		for _, n := range rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 3, rapid.ID).Draw(rt, "names") {
			e := Edit{Name: n, Set: map[string]string{}, Replace: rapid.Bool().Draw(rt, "replace")}
			if isGroup && rapid.IntRange(0, 5).Draw(rt, "remove") == 0 {
				e.Remove = true
			}
			for k, values := range both {
				if rapid.Bool().Draw(rt, k) {
					e.Set[k] = rapid.SampledFrom(values).Draw(rt, k)
				}
			}
			if !isGroup {
				e.Set["groups"] = strings.Join(rapid.SliceOfDistinct(rapid.SampledFrom(groups[:3]), rapid.ID).Draw(rt, "groups"), ",")
			}
			out = append(out, e)
		}
		return out
	}
	rapid.Check(t, func(rt *rapid.T) {
		err := d.Update(t.Context(), func(tx *Tx) error {
			for range rapid.IntRange(1, 4).Draw(rt, "changes") {
				e := Edits{Groups: draw(rt, true, groups), Nodes: draw(rt, false, names)}
				before := inEffect(rt, tx)
				p, err := tx.Plan(e)
				if err != nil {
					rt.Fatal(err)
				}
				if err := tx.Apply(p); err != nil {
					rt.Fatal(err)
				}
				after := inEffect(rt, tx)
				for n, was := range before {
					for _, a := range p.Affected {
						if slices.Contains(a.Nodes, n) && a.Key != node.KeyPassword {
							if was[a.Key] != a.Old {
								rt.Fatalf("%s: %+v, but it was %q", n, a, was[a.Key])
							}
							if was[a.Key] = a.New; a.New == "" {
								delete(was, a.Key)
							}
						}
					}
					// Of the password, only whether there is one can be seen.
					delete(was, node.KeyPassword)
					now := after[n]
					delete(now, node.KeyPassword)
					if diff := cmp.Diff(was, now); diff != "" {
						rt.Fatalf("%s is not as planned: %s", n, diff)
					}
				}
				for i := range e.Groups {
					if e.Groups[i].Remove {
						return errUndo
					}
				}
				if p, err := tx.Plan(e); err != nil || len(p.Groups)+len(p.Nodes)+len(p.Affected) > 0 {
					rt.Fatalf("once more: %+v, %v", p, err)
				}
			}
			return errUndo
		})
		if !errors.Is(err, errUndo) {
			rt.Fatal(err)
		}
	})
}

// inEffect is what counts for each node, worked out in the plainest way.
func inEffect(t *rapid.T, tx *Tx) map[node.Name]node.Values {
	all, err := records(tx.ctx, tx.tx)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := allGroups(tx.ctx, tx.tx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[node.Name]node.Values{}
	for _, r := range all {
		v := node.Values{}
		order := append(node.List(r.Own["groups"]), "all")
		slices.Reverse(order)
		for _, g := range order {
			for k, x := range groups[g].Set {
				number := strings.TrimLeft(string(r.node.Name), "abcdefghijklmnopqrstuvwxyz-0")
				v[k] = strings.NewReplacer("{name}", string(r.node.Name), "{n}", number).Replace(x)
				if k == "bmc.user" {
					v[k] = x // no pattern
				}
			}
		}
		for k, x := range r.Own {
			v[k] = x
		}
		out[r.node.Name] = v
	}
	return out
}

// Labels that name postscripts add up: a group's reaches nodes that say something themselves.
func TestPlanScripts(t *testing.T) {
	d := open(t, t.TempDir())
	const key = "label.postscripts.root"
	do(t, d, Edits{Groups: []Edit{edit("gpu", key, "cuda")}, Nodes: []Edit{edit("n1", "groups", "gpu", key, "mine", "label.site", "a"), edit("n2", "groups", "gpu"), edit("n3")}})
	p := do(t, d, Edits{Groups: []Edit{edit("gpu", key, "cuda,motd", "label.site", "b")}})
	want := []api.PlanEffect{
		{PlanKey: api.PlanKey{Key: key, Old: "cuda + mine", New: "cuda,motd + mine"}, Nodes: []node.Name{"n1"}},
		{PlanKey: api.PlanKey{Key: key, Old: "cuda", New: "cuda,motd"}, Nodes: []node.Name{"n2"}},
		{PlanKey: api.PlanKey{Key: "label.site", New: "b"}, Nodes: []node.Name{"n2"}},
	}
	if diff := cmp.Diff(want, p.Affected); diff != "" {
		t.Error(diff)
	}
}
