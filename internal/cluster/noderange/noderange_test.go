package noderange

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mimeo/internal/cluster/node"
)

var update = flag.Bool("update", false, "write what is found into testdata")

// rackOf is a small rack: n01 to n16, gpu1 to gpu3, rack1n1 to rack2n4, a node with a hyphen, and groups.
type rackOf struct{ names []node.Name }

func (r rackOf) Names() []node.Name { return r.names }
func (r rackOf) Members(g string) ([]node.Name, bool) {
	m := map[string][]node.Name{"rack3": {"n03", "n04", "n05"}, "rack4": {"n05", "n06"}, "empty": {}, "odd-name": {"gpu1"}}
	out, ok := m[g]
	return out, ok
}
func (r rackOf) HasAttribute(key string) bool { return key == "arch" || key == "profile" }
func (r rackOf) Attribute(n node.Name, key string) (string, bool) {
	if key == "arch" {
		if strings.HasPrefix(string(n), "gpu") {
			return "ppc64el", true
		}
		return "amd64", true
	}
	return "", false
}

func small() rackOf {
	var r rackOf
	for i := 1; i <= 16; i++ {
		r.names = append(r.names, node.Name(fmt.Sprintf("n%02d", i)))
	}
	r.names = append(r.names, "gpu1", "gpu2", "gpu3", "a-b", "n01-n16x")
	for i := 1; i <= 2; i++ {
		for j := 1; j <= 4; j++ {
			r.names = append(r.names, node.Name(fmt.Sprintf("rack%dn%d", i, j)))
		}
	}
	return r
}

// TestTable reads testdata/expand.txt: each line without a leading blank is an expression ("make: " before it asks
// without a Lookup), what follows indented is its answer.
func TestTable(t *testing.T) {
	b, err := os.ReadFile("testdata/expand.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, line := range strings.Split(string(b), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			fmt.Fprintln(&got, line)
			continue
		}
		if line[0] == ' ' {
			continue
		}
		expr, made := strings.CutPrefix(line, "make: ")
		var known Lookup = small()
		if made {
			known = nil
		}
		names, err := Expand(expr, known)
		fmt.Fprintln(&got, line)
		switch {
		case err != nil:
			fmt.Fprintln(&got, "    "+strings.ReplaceAll(err.Error(), "\n", "\n    "))
		case len(names) == 0:
			fmt.Fprintln(&got, "    (none)")
		default:
			fmt.Fprintln(&got, "    "+strings.Trim(fmt.Sprint(names), "[]"))
		}
	}
	text := strings.TrimRight(got.String(), "\n") + "\n"
	if *update {
		if err := os.WriteFile("testdata/expand.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != string(b) {
		t.Errorf("testdata/expand.txt differs (-update writes it):\n%s", text)
	}
}

func TestFoldExpandsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var names []node.Name
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			head := rapid.SampledFrom([]string{"n", "gpu", "rack1n"}).Draw(t, "head")
			names = append(names, node.Name(fmt.Sprintf("%s%0*d", head, rapid.IntRange(1, 3).Draw(t, "width"), rapid.IntRange(0, 120).Draw(t, "number"))))
		}
		slices.Sort(names)
		names = slices.Compact(names)
		folded := Fold(names)
		if len(names) == 0 {
			return
		}
		back, err := Expand(folded, nil)
		if err != nil {
			t.Fatalf("%q: %v", folded, err)
		}
		slices.Sort(back)
		if !slices.Equal(back, names) {
			t.Fatalf("%v folds to %q, which is %v", names, folded, back)
		}
	})
}

// TestHostile: no expression may cost much time or memory.
func TestHostile(t *testing.T) {
	full := many()
	for name, expr := range map[string]string{
		"rows in brackets":     "n[" + strings.Repeat("1-99999,", 8000) + "1]",
		"rows":                 strings.Repeat("n[1-99999],", 5000) + "n1",
		"brackets":             strings.Repeat("[1-9]", 10000),
		"exclusions":           "n[1-99999]" + strings.Repeat(",-n1", 10000),
		"intersections":        "n[1-99999]" + strings.Repeat("@n[1-99999]", 5000),
		"parentheses":          strings.Repeat("(", 60000),
		"regular expressions":  strings.Repeat("/n/,", 15000) + "/n/",
		"attributes":           strings.Repeat("arch==x,", 8000) + "n01",
		"too long":             strings.Repeat("n01,", 1<<20),
		"a regular expression": "/" + strings.Repeat("(a{1,1000}){1,1000}", 100) + "/",
	} {
		for _, known := range []Lookup{nil, small(), full} {
			start := time.Now()
			_, err := Expand(expr, known)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("%s: took %v", name, d)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
			}
		}
	}
}

// many are as many nodes as may be.
func many() rackOf {
	var r rackOf
	for i := 1; i <= maxNodes; i++ {
		r.names = append(r.names, node.Name(fmt.Sprintf("n%d", i)))
	}
	return r
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"n[01-16],-n07", "@rack3", "/^gpu/", "arch==ppc64el", "(n01,(n02)),-n01", "n[1-99999999]", "rack[1-2]n[1-4]", "n01+15"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		for _, known := range []Lookup{nil, small()} {
			names, err := Expand(expr, known)
			if err != nil {
				_ = err.Error()
				continue
			}
			if len(names) > maxNodes {
				t.Fatalf("%d nodes", len(names))
			}
			for _, n := range names {
				if !node.IsName(string(n)) {
					t.Fatalf("%q is no name", n)
				}
			}
		}
	})
}

// TestUnknown tells what is not there from what cannot be read.
func TestUnknown(t *testing.T) {
	for expr, want := range map[string]bool{"zz99": true, "@zz": true, "nosuch==x": true, "n[01-": false, "((n01)": false, "^file": false, "n[5-2]": false} {
		_, err := Expand(expr, small())
		var e *Error
		if !errors.As(err, &e) || e.Unknown != want {
			t.Errorf("%s: %v, unknown %v; want %v", expr, err, e != nil && e.Unknown, want)
		}
	}
}
