package roster

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"mimeo/internal/cluster/api"
)

// version is that of the file's form.
const version = "1"

func writeYAML(inv api.Inventory) []byte {
	var out strings.Builder
	out.WriteString("# The inventory of Mimeo: what was said of groups and nodes, without passwords.\nversion: " + version + "\n")
	part := func(head string, items []api.InventoryItem) {
		if len(items) == 0 {
			return
		}
		out.WriteString(head + ":\n")
		for _, it := range items {
			keys := keysOf([]api.InventoryItem{it})
			if len(keys) == 0 {
				fmt.Fprintf(&out, "  %s: {}\n", quote(it.Name))
				continue
			}
			fmt.Fprintf(&out, "  %s:\n", quote(it.Name))
			for _, k := range keys {
				fmt.Fprintf(&out, "    %s: %s\n", quote(k), quote(it.Set[k]))
			}
		}
	}
	part("groups", inv.Groups)
	part("nodes", inv.Nodes)
	return []byte(out.String())
}

var (
	// plain texts mean themselves in every version of YAML.
	plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:/@+,={}-]*$`)
	// words mean something else in some.
	words = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|null|y|n|inf|nan)$`)
)

func quote(s string) string {
	if plain.MatchString(s) && !words.MatchString(s) && !strings.HasSuffix(s, ":") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

func (r *reader) yaml(text []byte) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		line, column, why := 1, 1, err.Error()
		var e yaml.Error
		if errors.As(err, &e) {
			why = e.GetMessage()
			if t := e.GetToken(); t != nil {
				line, column = t.Position.Line, t.Position.Column
			}
		}
		r.errorf(line, column, "%s", why)
		return
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			r.wrong(d.Body, "there is more than one document in it")
			return
		}
		body = d.Body
	}
	if body == nil {
		r.errorf(1, 1, "there is nothing in it: want version, groups and nodes")
		return
	}
	seen := false
	for _, e := range r.mapping(body, "version, groups and nodes") {
		switch key, _ := r.scalar(e.Key); key {
		case "version":
			seen = true
			if v, ok := r.scalar(e.Value); ok && v != version {
				r.wrong(e.Value, "version %s is not known; this program reads %s", v, version)
			}
		case "groups":
			r.items(e.Value, true)
		case "nodes":
			r.items(e.Value, false)
		default:
			r.wrong(e.Key, "%q is none of version, groups, nodes", key)
		}
	}
	if !seen && len(r.errs) == 0 {
		r.errorf(1, 1, "there is no version: want \"version: %s\"", version)
	}
}

func (r *reader) wrong(n ast.Node, format string, args ...any) {
	line, column := 1, 1
	if t := n.GetToken(); t != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	r.errorf(line, column, format, args...)
}

// mapping gives the entries of a mapping; what is empty has none.
func (r *reader) mapping(n ast.Node, want string) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode, nil:
		return nil
	}
	r.wrong(n, "want %s here", want)
	return nil
}

func (r *reader) items(n ast.Node, isGroup bool) {
	for _, e := range r.mapping(n, "names, each with its keys and values") {
		name, ok := r.scalar(e.Key)
		if !ok {
			continue
		}
		t := e.Key.GetToken()
		it := r.item(t.Position.Line, t.Position.Column, isGroup, name)
		if it == nil {
			continue
		}
		had := map[string]bool{}
		for _, kv := range r.mapping(e.Value, "keys and values") {
			key, ok := r.scalar(kv.Key)
			if !ok {
				continue
			}
			if had[key] {
				r.wrong(kv.Key, "%s: %s is there twice", name, key)
				continue
			}
			had[key] = true
			if v, ok := r.text(kv.Value); ok {
				at := kv.Value.GetToken()
				if at == nil || v == "" {
					at = kv.Key.GetToken()
				}
				r.value(at.Position.Line, at.Position.Column, isGroup, it, key, v)
			}
		}
	}
}

// text is a value: one text, or several in a list, as with commas between them.
func (r *reader) text(n ast.Node) (string, bool) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return r.scalar(n)
	}
	var out []string
	for _, v := range list.Values {
		s, ok := r.scalar(v)
		if !ok {
			return "", false
		}
		if strings.ContainsAny(s, ", ") {
			r.wrong(v, "%q: no comma and no blank within a list", s)
			return "", false
		}
		out = append(out, s)
	}
	return strings.Join(out, ","), true
}

// scalar is a text as it is written, so that 007 and 1.10 stay what they are.
func (r *reader) scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	case *ast.NullNode, nil:
		return "", true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	r.wrong(n, "want a text here")
	return "", false
}
