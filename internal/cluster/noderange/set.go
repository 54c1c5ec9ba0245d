package noderange

import "mimeo/internal/cluster/node"

// set is a set of nodes that keeps their order.
type set struct {
	order []node.Name
	has   map[node.Name]bool
}

func newSet(names ...node.Name) *set {
	s := &set{has: map[node.Name]bool{}}
	s.add(names)
	return s
}

func (s *set) add(names []node.Name) {
	for _, n := range names {
		if !s.has[n] {
			s.has[n] = true
			s.order = append(s.order, n)
		}
	}
}

// keep drops the nodes for which f is false.
func (s *set) keep(f func(node.Name) bool) {
	out := s.order[:0:0]
	for _, n := range s.order {
		if f(n) {
			out = append(out, n)
		} else {
			delete(s.has, n)
		}
	}
	s.order = out
}
