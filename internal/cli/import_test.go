package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// TestImportScripts runs imports against a server that plans them for an empty inventory and keeps what it is sent.
func TestImportScripts(t *testing.T) {
	var mu sync.Mutex
	made := map[string]map[string]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Method + " " + r.URL.Path {
		case "POST /v1/inventory":
			var req api.InventoryPut
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
				t.Error(err)
			}
			p := api.Plan{ID: "plan1", Applied: !req.DryRun}
			if !req.DryRun && req.Expect != p.ID {
				t.Errorf("expect is %q", req.Expect)
			}
			plan := func(items []api.InventoryItem) (out []api.PlanItem) {
				for _, i := range items {
					item := api.PlanItem{Name: i.Name, New: true}
					if made[i.Name] != nil {
						p.Same++
						continue
					}
					for k, v := range i.Set {
						if k == node.KeyPassword {
							v = node.Hidden
						}
						item.Keys = append(item.Keys, api.PlanKey{Key: k, New: v})
					}
					if !req.DryRun {
						made[i.Name] = i.Set
					}
					out = append(out, item)
				}
				return out
			}
			p.Groups, p.Nodes = plan(req.Groups), plan(req.Nodes)
			json.NewEncoder(w).Encode(p)
		case "GET /v1/made":
			var out []string
			for name, set := range made {
				b, _ := json.Marshal(set)
				out = append(out, name+" "+string(b))
			}
			w.Write([]byte(strings.Join(out, "\n") + "\n"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/import",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MIMEO_SERVER", srv.URL)
			e.Setenv("MIMEO_TOKEN", "good")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"made": func(ts *testscript.TestScript, neg bool, args []string) { // made NODE TEXT: what the server was sent
				mu.Lock()
				defer mu.Unlock()
				b, _ := json.Marshal(made[args[0]])
				if has := strings.Contains(string(b), args[1]); has == neg {
					ts.Fatalf("%s was made with %s", args[0], b)
				}
			},
		},
	})
}

var inBackticks = regexp.MustCompile("`mimeo ([^`]+)`|(?m)^    mimeo ([^#\n]+)")

// TestXCATPage holds docs/coming-from-xcat.md to the commands and flags that there are.
func TestXCATPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/coming-from-xcat.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range inBackticks.FindAllStringSubmatch(string(text), -1) {
		line := m[1] + m[2]
		n++
		root := newRoot(&terminal{})
		root.InitDefaultHelpCmd()
		c, rest, err := root.Find(strings.Fields(line))
		if err != nil || c == root || c.HasSubCommands() && len(rest) == 0 && c.RunE == nil {
			t.Errorf("mimeo %s: no such command (%v)", line, err)
			continue
		}
		for _, word := range rest {
			flag, ok := strings.CutPrefix(word, "--")
			if flag, _, _ = strings.Cut(flag, "="); ok && c.Flag(flag) == nil && root.PersistentFlags().Lookup(flag) == nil {
				t.Errorf("mimeo %s: %q has no flag --%s", line, c.CommandPath(), flag)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d commands were found in the page", n)
	}
}
