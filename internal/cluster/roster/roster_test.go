package roster

import (
	"bytes"
	"encoding/csv"
	"maps"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// value draws a value that a key may have.
func value(t *rapid.T, key string, isGroup bool) string {
	odd := rapid.OneOf(
		rapid.SampledFrom([]string{"null", "~", "007", "1e3", "yes", "0x1f", "1.10", "a: b", "a #b", "- x", "[a]", "{}", "'", `"`, `\`, `\n`, "é…", "=1+1", "@x", "*a", "&a", "!t", "%", "|", ">", "a;b", "a,b", "x\ty", "x\ny", "---", "...", "2026-01-01", "12:30:45", "<<", "\u2028x", "\ufeffx"}),
		rapid.StringMatching(`[ -~]{1,20}`))
	var v string
	switch key {
	case "mac":
		v = rapid.StringMatching(`02:[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}`).Draw(t, key)
	case "groups":
		v = rapid.StringMatching(`[a-z]{1,3}(,[0-9]{1,3})?`).Draw(t, key)
	case "disk.min_size":
		v = node.FormatSize(rapid.Int64Range(1, 1<<50).Draw(t, key))
	case "bmc":
		v = rapid.SampledFrom([]string{"manual:", "redfish://10.0.9.{n}/redfish/v1/Systems/1"}).Draw(t, key)
	default:
		v = odd.Draw(t, key)
	}
	check := node.Check
	if isGroup {
		check = node.CheckGroup
	}
	v, err := check(key, v)
	if err != nil {
		return ""
	}
	return v
}

func inventory(t *rapid.T) api.Inventory {
	items := func(names *rapid.Generator[string], keys []string, isGroup bool) (out []api.InventoryItem) {
		for _, name := range rapid.SliceOfNDistinct(names, 0, 6, rapid.ID).Draw(t, "names") {
			it := api.InventoryItem{Name: name, Set: map[string]string{}}
			for _, k := range rapid.SliceOfDistinct(rapid.SampledFrom(keys), rapid.ID).Draw(t, "keys") {
				if v := value(t, k, isGroup); v != "" {
					it.Set[k] = v
				}
			}
			out = append(out, it)
		}
		return out
	}
	both := []string{"bmc", "bmc.user", "profile", "knobs.cmdline", "disk.min_size", "label.row", "label.A/b-c.d_e", "label.007", "label.true"}
	return api.Inventory{Groups: items(rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9._-]{0,9}`), rapid.SampledFrom([]string{"true", "007", "1e3", "null", "all", "ü", "*", "%"})).Filter(node.IsGroup), both, true),
		Nodes: items(rapid.OneOf(rapid.StringMatching(`[a-z][a-z0-9]{0,9}`), rapid.SampledFrom([]string{"true", "007", "1e3", "null", "y", "0x1f"})), append([]string{"mac", "groups", "disk.serial"}, both...), false)}
}

// filled leaves out the empty values that a cell without anything gives.
func filled(inv api.Inventory) api.Inventory {
	for _, list := range [][]api.InventoryItem{inv.Groups, inv.Nodes} {
		for _, it := range list {
			maps.DeleteFunc(it.Set, func(_, v string) bool { return v == "" })
		}
	}
	return inv
}

// What is written reads back exactly, whatever stands in it.
func TestRoundTrip(t *testing.T) {
	for _, f := range []Format{YAML, CSV} {
		t.Run(string(f), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := inventory(t)
				text, err := Write(f, want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Read(f, text)
				if err != nil {
					t.Fatalf("%v in\n%s", err, text)
				}
				if diff := cmp.Diff(want, filled(got)); diff != "" {
					t.Fatalf("%s in\n%s", diff, text)
				}
				if f == CSV {
					again(t, want, text)
				}
			})
		})
	}
}

// again reads a CSV file as spreadsheets give it back: with a mark before it, other separators and other line ends.
func again(t *rapid.T, want api.Inventory, text []byte) {
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, sep := range ",;\t" {
		var out bytes.Buffer
		out.WriteString("\ufeff")
		w := csv.NewWriter(&out)
		w.Comma, w.UseCRLF = sep, true
		w.WriteAll(rows)
		got, err := Read(CSV, out.Bytes())
		if err != nil {
			t.Fatalf("%v in\n%s", err, out.Bytes())
		}
		if diff := cmp.Diff(want, filled(got)); diff != "" {
			t.Fatalf("with %q: %s", sep, diff)
		}
	}
}

// Another program reads the YAML as we do.
func TestPythonReadsTheSame(t *testing.T) {
	want := rapid.Custom(inventory)
	var docs bytes.Buffer
	var all []api.Inventory
	for seed := range 60 {
		inv := want.Example(seed)
		text, err := Write(YAML, inv)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, inv)
		docs.WriteString("---\n")
		docs.Write(text)
	}
	cmd := exec.Command("python3", "-c", `
import sys, yaml
for d in yaml.safe_load_all(sys.stdin):
    for part in ("groups", "nodes"):
        for name, keys in (d.get(part) or {}).items():
            for k, v in sorted(keys.items()):
                assert isinstance(name, str) and isinstance(k, str) and isinstance(v, str), (name, k, v)
                print(part, ascii(name), ascii(k), ascii(v))
`)
	cmd.Stdin = &docs
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	values := 0
	for _, inv := range all {
		for _, list := range [][]api.InventoryItem{inv.Groups, inv.Nodes} {
			for _, it := range list {
				values += len(it.Set)
			}
		}
	}
	if lines := strings.Count(string(out), "\n"); lines != values || values < 100 {
		t.Errorf("%d values were written, Python reads %d", values, lines)
	}
}

func TestPlaces(t *testing.T) {
	for _, tc := range []struct {
		f          Format
		text, want string
	}{
		{CSV, "", "line 1, column 1: there is nothing in it"},
		{CSV, "node,mac\nn1,02:00:00:00:00:01\n", `line 1, column 1: column "node": no such key`},
		{CSV, "mac\n02:00:00:00:00:01\n", `line 1, column 1: there is no column "name"`},
		{CSV, "name,mac,mac\n", "line 1, column 10: the column mac is there twice"},
		{CSV, "name,arhc\n", `line 1, column 6: column "arhc"`},
		{CSV, "name,mac\nn1,02:00:00:00:00:01\nn2,oops\n", `line 3, column 4: n2: mac: "oops" is no MAC`},
		{CSV, "name,mac\r\n\r\nn1,\r\nn1,\r\n", "line 4, column 1: node n1 is there twice, first in line 3"},
		{CSV, "name,label.x\nn1,\"two\nlines\"\nN2,x\n", `line 4, column 1: "N2" is no name`},
		{CSV, "name,label.x\nn1,\"open\n", "line 2, column "},
		{CSV, "name;arch\nn1;amd64;x\n", `line 2, column 10: "x" stands under no column`},
		{CSV, "kind,name,hostname\ngroup,g,h\n", "line 2, column 9: g: hostname: all nodes of the group"},
		{CSV, "kind,name\nrack,g\n", `line 2, column 1: kind "rack"`},
		{CSV, "kind,name,mac\ngroup,g,02:00:00:00:00:01\n", "line 2, column 9: g: mac: it belongs to one node"},
		{CSV, "name\nn1\nn\xff\n", "line 3, column 2: this is no UTF-8"},
		{CSV, "\xff\xfen\x00", "UTF-16"},
		{CSV, "name,arch,firmware\nn1,x,y\n", "line 2, column 6: n1: firmware"},
		{YAML, "", "there is nothing in it"},
		{YAML, "nodes:\n", "there is no version"},
		{YAML, "version: 2\n", "line 1, column 10: version 2 is not known"},
		{YAML, "version: 1\nnode:\n  n1: {}\n", `line 2, column 1: "node" is none of`},
		{YAML, "version: 1\nnodes:\n  n1:\n    mac: oops\n", `line 4, column 10: n1: mac: "oops"`},
		{YAML, "version: 1\nnodes:\n  n1:\n    arhc: amd64\n", "n1: arhc: no such key"},
		{YAML, "version: 1\nnodes:\n  - n1\n", "line 3, column 3: want names"},
		{YAML, "version: 1\nnodes:\n  n1:\n    groups: {a: b}\n", "want a text here"},
		{YAML, "version: 1\nnodes:\n  n1:\n    groups: [a, \"b,c\"]\n", `"b,c": no comma`},
		{YAML, "version: 1\nnodes:\n  N1: {}\n", `line 3, column 3: "N1" is no name`},
		{YAML, "version: 1\nnodes:\n  n1: {arch: amd64, arch: arm64}\n", "arch"},
		{YAML, "version: 1\n---\nversion: 1\n", "more than one document"},
		{YAML, "version: 1\nnodes: [\n", "line 2"},
		{YAML, "version: 1\nnodes: {n1: &a {arch: amd64}, n2: *a}\n", "want"},
	} {
		_, err := Read(tc.f, []byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: %v, want %s", tc.f, tc.text, err, tc.want)
		}
	}
}

// What people write by hand is taken as they mean it.
func TestByHand(t *testing.T) {
	want := api.Inventory{Groups: []api.InventoryItem{{Name: "rack3", Set: map[string]string{"bmc": "redfish://10.0.9.{n}"}}},
		Nodes: []api.InventoryItem{{Name: "n1", Set: map[string]string{"groups": "rack3,gpu", "mac": "02:00:00:00:00:01", "label.row": "007", "bmc.insecure": "true", "disk.min_size": "400G", "profile": ""}}, {Name: "n2", Set: map[string]string{}}}}
	for _, text := range []string{`
version: 1   # the first
groups:
  rack3:
    bmc: redfish://10.0.9.{n}
nodes:
  n1:
    groups: [rack3, gpu]
    mac: 02:00:00:00:00:01
    label.row: 007
    bmc.insecure: true
    disk.min_size: 400000000000
    profile:
  n2:
`, `{"version": 1, "groups": {"rack3": {"bmc": "redfish://10.0.9.{n}"}}, "nodes": {"n1": {"groups": ["rack3", "gpu"], "mac": "02-00-00-00-00-01", "label.row": "007", "bmc.insecure": "T", "disk.min_size": "400 GB", "profile": null}, "n2": {}}}`} {
		got, err := Read(YAML, []byte(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	want = api.Inventory{Groups: []api.InventoryItem{{Name: "rack3", Set: map[string]string{"profile": "x"}}},
		Nodes: []api.InventoryItem{{Name: "n1", Set: map[string]string{"mac": "02:00:00:00:00:01", "profile": "", "bmc.password": " x "}}, {Name: "n2", Set: map[string]string{"mac": "", "profile": ""}}}}
	got, err := Read(CSV, []byte("\ufeff name ; mac;profile; kind;bmc.password;\r\nrack3;;x;group;\r\n n1 ;02:00:00:00:00:01;;; x ;\r\n;;;;\r\nn2\r\n"))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("version: 1\nnodes:\n  n1: {arch: amd64}\n", true)
	f.Add("kind,name,mac\nnode,n1,02:00:00:00:00:01\n", false)
	f.Fuzz(func(t *testing.T, text string, isYAML bool) {
		format := CSV
		if isYAML {
			format = YAML
		}
		inv, err := Read(format, []byte(text))
		if err != nil {
			if e, ok := err.(Errors); !ok || len(e) == 0 || e[0].Line < 1 {
				t.Errorf("%v", err)
			}
			return
		}
		out, err := Write(format, inv)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(format, out)
		if err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if diff := cmp.Diff(filled(inv), filled(again)); diff != "" {
			t.Error(diff)
		}
	})
}
