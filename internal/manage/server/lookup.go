package server

import (
	"context"
	"strings"

	"mimeo/internal/cluster/node"
)

// lookup answers a noderange's questions from one reading of the inventory.
type lookup struct {
	names  []node.Name
	nodes  map[node.Name]node.Node
	groups map[string][]node.Name
	labels map[string]bool                 // that any node has
	cache  map[node.Name]map[string]string // attributes that were asked for
}

func (s *Server) lookup(ctx context.Context) (*lookup, error) {
	nodes, err := s.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	groups, err := s.db.GroupNames(ctx)
	if err != nil {
		return nil, err
	}
	l := &lookup{nodes: map[node.Name]node.Node{}, groups: map[string][]node.Name{}, labels: map[string]bool{}, cache: map[node.Name]map[string]string{}}
	for _, g := range append(groups, node.GroupAll) {
		l.groups[g] = nil // a group may have no node
	}
	for _, n := range nodes {
		l.names = append(l.names, n.Name)
		l.nodes[n.Name] = n
		for _, g := range append([]string{node.GroupAll}, n.Groups...) {
			l.groups[g] = append(l.groups[g], n.Name)
		}
		for k := range n.Labels {
			l.labels[k] = true
		}
	}
	return l, nil
}

func (l *lookup) Names() []node.Name { return l.names }

func (l *lookup) Members(g string) ([]node.Name, bool) {
	m, ok := l.groups[g]
	return m, ok
}

// key is an attribute's full name: a label may be named without what labels begin with, where no key has that name.
func (l *lookup) key(k string) (string, bool) {
	switch {
	case k == "name" || k == "boot" || k == "image" || strings.HasPrefix(k, node.LabelPrefix):
		return k, true
	case k == node.KeyPassword:
		return "", false
	case node.IsKey(k):
		return k, true
	}
	return node.LabelPrefix + k, l.labels[k]
}

func (l *lookup) HasAttribute(k string) bool {
	_, ok := l.key(k)
	return ok
}

func (l *lookup) Attribute(n node.Name, k string) (string, bool) {
	k, ok := l.key(k)
	if !ok {
		return "", false
	}
	m := l.cache[n]
	if m == nil {
		m = attributes(l.nodes[n])
		l.cache[n] = m
	}
	if v, ok := m[k]; ok {
		return v, true
	}
	return node.Default(k), false
}

// attributes are a node's keys and values in effect, as noderanges select by them.
func attributes(n node.Node) map[string]string {
	m := n.Said()
	m["name"], m["boot"], m["image"] = string(n.Name), string(n.Boot), n.LastImage
	return m
}
