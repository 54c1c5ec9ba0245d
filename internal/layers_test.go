package internal_test

import (
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// room is a folder and what of ours its packages may import. A longer folder goes before a shorter one.
type room struct {
	dir string
	may []string // prefixes below the module; a package may always import its own room
	why string
}

// rooms is the import table of ARCHITECTURE.md: three columns on two slabs.
var rooms = []room{
	{"internal/cluster", nil, "the words that all programs share lean on nothing"},
	{"internal/imaging", nil, "imaging could be lifted out as a library tomorrow"},
	{"internal/boot", []string{"internal/cluster"}, "boot knows nodes, and neither disks nor jobs"},
	{"internal/manage", []string{"internal/cluster", "internal/boot", "internal/imaging/chunk", "internal/imaging/manifest", "internal/imaging/store"}, "no disk code in the daemon"},
	{"internal/agent", []string{"internal/cluster", "internal/imaging"}, "no database and no templates in the agent"},
	{"internal/cli", []string{"internal/cluster"}, "the command line speaks to the server through its API only"},
	{"cmd/mimeod", []string{"internal/cluster", "internal/boot", "internal/manage"}, "its own column"},
	{"cmd/mimeo-agent", []string{"internal/cluster", "internal/imaging", "internal/agent"}, "its own column"},
	{"cmd/mimeo", []string{"internal/cluster", "internal/cli"}, "its own column"},
}

// siblings must not know each other: the server joins them.
var siblings = [][]string{{"internal/boot/dhcp", "internal/boot/tftp", "internal/boot/netboot"}}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func TestImportsPointOneWay(t *testing.T) {
	const module = "mimeo/"
	seen := 0
	for _, p := range listPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rooms {
			if !below(path, r.dir) {
				continue
			}
			seen++
			for _, imp := range p.Imports {
				if !strings.HasPrefix(imp, module) {
					continue
				}
				imp = strings.TrimPrefix(imp, module)
				ok := below(imp, r.dir) || imp == "internal/night" // what tests lean on
				for _, m := range r.may {
					ok = ok || below(imp, m)
				}
				if !ok {
					t.Errorf("%s imports %s: %s", path, imp, r.why)
				}
			}
			break
		}
		if !strings.HasPrefix(path, "lab") {
			for _, imp := range p.Imports {
				if below(imp, module+"lab") || strings.HasSuffix(imp, "test") && strings.HasPrefix(imp, module) && !strings.HasSuffix(p.ImportPath, "test") {
					t.Errorf("%s imports %s: lab and test packages are for tests only", path, imp)
				}
			}
		}
		for _, group := range siblings {
			for _, a := range group {
				for _, b := range group {
					if a != b && path == a {
						for _, imp := range p.Imports {
							if imp == module+b {
								t.Errorf("%s imports its sibling %s: the server joins them", a, b)
							}
						}
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d packages were held against the table; are its folders still right?", seen)
	}
}

// TestAgentLinks keeps the agent small: what it must never link.
func TestAgentLinks(t *testing.T) {
	unwanted := map[string]string{
		"modernc.org/sqlite":        "the agent keeps nothing",
		"html/template":             "the agent has no pages",
		"github.com/bougou/go-ipmi": "power is the management node's",
	}
	for _, p := range listPackages(t) {
		if p.ImportPath != "mimeo/cmd/mimeo-agent" {
			continue
		}
		for _, d := range p.Deps {
			for u, why := range unwanted {
				if below(d, u) {
					t.Errorf("mimeo-agent links %s: %s", d, why)
				}
			}
		}
	}
}
