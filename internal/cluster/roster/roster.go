// Package roster reads and writes the inventory as a file, in YAML or CSV.
package roster

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Format is how a file is written.
type Format string

// The formats, which docs/formats/inventory.md describes.
const (
	YAML Format = "yaml"
	CSV  Format = "csv"
)

// FormatOf tells a file's format by its name.
func FormatOf(name string) (Format, error) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return YAML, nil
	case ".csv":
		return CSV, nil
	}
	return "", fmt.Errorf("%s: the name ends in none of .yaml, .yml, .csv: say the format", name)
}

// Write makes a file of an inventory. The same inventory gives the same bytes.
func Write(f Format, inv api.Inventory) ([]byte, error) {
	switch f {
	case YAML:
		return writeYAML(inv), nil
	case CSV:
		return writeCSV(inv)
	}
	return nil, fmt.Errorf("format %q: want yaml or csv", f)
}

// Read takes a file apart and checks each name and value in it by itself. All that is wrong is said at once, as Errors.
func Read(f Format, text []byte) (api.Inventory, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // as spreadsheets put it
	r := &reader{}
	switch {
	case bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")):
		r.errorf(1, 1, "this is UTF-16: save it as UTF-8")
	case !utf8.Valid(text):
		r.notText(text)
	case f == YAML:
		r.yaml(text)
	case f == CSV:
		r.csv(text)
	default:
		return api.Inventory{}, fmt.Errorf("format %q: want yaml or csv", f)
	}
	if len(r.errs) > 0 {
		return api.Inventory{}, r.errs
	}
	return r.inv, nil
}

// Error is something wrong at a place in a file.
type Error struct {
	Line, Column int // from 1; a column is bytes from the line's start
	Why          string
}

func (e Error) Error() string { return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Why) }

// Errors is all that is wrong with a file, in order of the places.
type Errors []Error

// maxShown is how many errors are shown.
const maxShown = 20

func (e Errors) Error() string {
	var out []string
	for i, one := range e {
		if i == maxShown {
			out = append(out, fmt.Sprintf("and %d more", len(e)-maxShown))
			break
		}
		out = append(out, one.Error())
	}
	return strings.Join(out, "\n")
}

// reader gathers what a file says and what is wrong with it.
type reader struct {
	inv  api.Inventory
	errs Errors
	seen [2]map[string]int // names of nodes and of groups, and their lines
}

func (r *reader) errorf(line, column int, format string, args ...any) {
	r.errs = append(r.errs, Error{Line: line, Column: column, Why: fmt.Sprintf(format, args...)})
}

func (r *reader) notText(text []byte) {
	line := 1
	for l := range bytes.Lines(text) {
		if !utf8.Valid(l) {
			at := 0
			for at < len(l) {
				c, n := utf8.DecodeRune(l[at:])
				if c == utf8.RuneError && n < 2 {
					break
				}
				at += n
			}
			r.errorf(line, at+1, "this is no UTF-8: save it as UTF-8")
			return
		}
		line++
	}
}

// item begins a node or a group; nil where its name is wrong.
func (r *reader) item(line, column int, isGroup bool, name string) *api.InventoryItem {
	which, what, ok := 0, "node", node.IsName(name)
	if isGroup {
		which, what, ok = 1, "group", node.IsGroup(name)
	}
	if !ok {
		r.errorf(line, column, "%q is no name for a %s", name, what)
		return nil
	}
	if r.seen[which] == nil {
		r.seen[which] = map[string]int{}
	}
	if before, twice := r.seen[which][name]; twice {
		r.errorf(line, column, "%s %s is there twice, first in line %d", what, name, before)
		return nil
	}
	r.seen[which][name] = line
	list := &r.inv.Nodes
	if isGroup {
		list = &r.inv.Groups
	}
	*list = append(*list, api.InventoryItem{Name: name, Set: map[string]string{}})
	return &(*list)[len(*list)-1]
}

// value checks a value and puts it into an item.
func (r *reader) value(line, column int, isGroup bool, it *api.InventoryItem, key, value string) {
	check := node.Check
	if isGroup {
		check = node.CheckGroup
	}
	v, err := check(key, value)
	if err != nil {
		r.errorf(line, column, "%s: %s: %v", it.Name, key, err)
		return
	}
	it.Set[key] = v
}

// keysOf are the keys that any of the items has, in their order.
func keysOf(items ...[]api.InventoryItem) []string {
	seen := map[string]bool{}
	var out []string
	for _, list := range items {
		for _, it := range list {
			for k := range it.Set {
				if !seen[k] {
					seen[k] = true
					out = append(out, k)
				}
			}
		}
	}
	slices.SortFunc(out, node.CompareKeys)
	return out
}
