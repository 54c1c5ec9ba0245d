package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// logWords are words that log lines might use for a key, and the key that they use.
var logWords = map[string]string{
	"host": "node", "hostname": "node", "machine": "node", "client": "node", "job_id": "job", "id": "job", "img": "image", "revision": "rev", "device": "disk", "dev": "disk",
	"ip": "addr", "address": "addr", "remote": "addr", "iface": "interface", "nic": "interface", "hwaddr": "mac", "error": "err", "reason": "why", "duration": "took", "elapsed": "took",
	"n": "the plural of what is counted", "count": "the plural of what is counted",
}

// TestLogKeys holds log lines to one key for a thing, so that whoever searches logs finds all of it. docs/operations.md lists the keys.
func TestLogKeys(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Logs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	unused := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(section, -1) {
		for _, k := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			unused[k[1]] = true
		}
	}
	if len(unused) == 0 {
		t.Fatal("docs/operations.md lists no keys of log lines")
	}
	for _, dir := range []string{"manage", "boot", "cluster", "../cmd/mimeod"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				for _, k := range logKeys(call) {
					delete(unused, k)
					if better := logWords[k]; better != "" {
						t.Errorf("%v: a log line has the key %q: use %s", files.Position(call.Pos()), k, better)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for k := range unused {
		t.Errorf("docs/operations.md lists the key %q, which no log line has", k)
	}
}

// logKeys are the keys of a call of a *slog.Logger that is named log, Log or so.
func logKeys(call *ast.CallExpr) (keys []string) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	var name string
	switch x := sel.X.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	case *ast.CallExpr: // log.With(...).Info(...)
		name = "log"
	}
	first := map[string]int{"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0}
	from, ok := first[sel.Sel.Name]
	if !ok || !strings.EqualFold(name, "log") && !strings.EqualFold(name, "slog") {
		return nil
	}
	for i := from; i+1 < len(call.Args); i += 2 {
		if lit, ok := call.Args[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if k, err := strconv.Unquote(lit.Value); err == nil {
				keys = append(keys, k)
			}
		}
	}
	return keys
}
