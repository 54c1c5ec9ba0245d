package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Make says whether an Edit may make what it names.
type Make int

// What an Edit finds.
const (
	MayMake     Make = iota // it is made where it is not there
	MustMake                // it must not be there
	MustBeThere             // it must be there
)

// Edit is what is wanted of one node or group.
type Edit struct {
	Name    string
	Set     map[string]string // an empty value unsets; of a node, groups+ and groups- add and take away
	Replace bool              // keys that are not given are unset, but for the password
	Make    Make
	Remove  bool // of a group: its nodes leave it, and it is no more
}

// Edits is a change of the inventory, which is made as a whole.
type Edits struct{ Groups, Nodes []Edit }

// Planned is a change that was checked and not made yet.
type Planned struct {
	api.Plan
	b *book
}

// book is the inventory in memory, before and after a change.
type book struct {
	db     *DB
	groups map[string]*groupDraft
	nodes  map[node.Name]*nodeDraft
	errs   []error
}

type groupDraft struct {
	group           // as it will be
	was      *group // nil where it is new
	password *string
	removed  bool
	named    bool
}

type nodeDraft struct {
	record            // as it will be
	was      *record  // nil where it is new
	password *string  // nil where it stays
	named    bool     // in the edits
	wrong    bool     // something that was said of it is
	touched  bool     // something that it says or inherits may have changed
	effect   []string // keys whose value in effect changes
}

// Plan checks a change and says what it changes. All that is wrong with it is said at once, in one *api.Error.
func (t *Tx) Plan(e Edits) (*Planned, error) {
	b, err := t.book()
	if err != nil {
		return nil, err
	}
	for _, g := range e.Groups {
		b.editGroup(g)
	}
	for _, n := range e.Nodes {
		b.editNode(n)
	}
	b.settle()
	b.check()
	if err := b.err(); err != nil {
		return nil, err
	}
	p := &Planned{b: b, Plan: b.plan()}
	text, err := json.Marshal([]any{p.Groups, p.Nodes, p.Affected})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	p.ID = hex.EncodeToString(sum[:16])
	return p, nil
}

func (t *Tx) book() (*book, error) {
	b := &book{db: t.db, groups: map[string]*groupDraft{}, nodes: map[node.Name]*nodeDraft{}}
	groups, err := allGroups(t.ctx, t.tx)
	if err != nil {
		return nil, err
	}
	for name, g := range groups {
		was := g
		g.Set = maps.Clone(g.Set)
		b.groups[name] = &groupDraft{group: g, was: &was}
	}
	all, err := records(t.ctx, t.tx)
	for _, r := range all {
		was := r
		r.Own = maps.Clone(r.Own)
		b.nodes[r.node.Name] = &nodeDraft{record: r, was: &was}
	}
	return b, err
}

// wrong notes what is wrong with a key of a node or group.
func (b *book) wrong(who, key string, err error) {
	var e *api.Error
	if errors.As(err, &e) {
		b.errs = append(b.errs, e)
		return
	}
	b.errs = append(b.errs, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %s: %v", who, key, err), Hint: `"mimeo node set --help" lists the keys`})
}

// maxWrong is how many errors are said at once.
const maxWrong = 20

// err makes one error of all.
func (b *book) err() error {
	if len(b.errs) < 2 {
		return errors.Join(b.errs...)
	}
	first := b.errs[0].(*api.Error)
	out := &api.Error{Code: first.Code, Hint: first.Hint, Message: fmt.Sprintf("%d things are wrong:", len(b.errs))}
	for i, err := range b.errs {
		if i == maxWrong {
			out.Message += fmt.Sprintf("\n  and %d more", len(b.errs)-maxWrong)
			break
		}
		out.Message += "\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ")
	}
	return out
}

// made tells whether an edit may go on, as what it names is there or is not.
func (b *book) made(e Edit, there bool, what string) bool {
	switch {
	case e.Make == MustMake && there:
		b.wrong("", "", &api.Error{Code: "conflict", Message: fmt.Sprintf("%s %s is there already", what, e.Name), Hint: fmt.Sprintf(`change it with "mimeo %s set %s KEY=VALUE"`, what, e.Name)})
		return false
	case e.Make == MustBeThere && !there:
		b.wrong("", "", &api.Error{Code: "not_found", Message: fmt.Sprintf("no %s %q", what, e.Name), Hint: fmt.Sprintf(`"mimeo %s list" shows all`, what)})
		return false
	}
	return true
}

func (b *book) editGroup(e Edit) {
	g := b.groups[e.Name]
	// The group of all nodes is always there, if only in name.
	if !b.made(e, g != nil || e.Name == node.GroupAll, "group") {
		return
	}
	if !node.IsGroup(e.Name) {
		b.wrong("", "", &api.Error{Code: "bad_request", Message: fmt.Sprintf("%q is no name for a group", e.Name)})
		return
	}
	if g == nil {
		g = &groupDraft{group: group{Group: node.Group{Name: e.Name, Set: node.Values{}}}}
		b.groups[e.Name] = g
	}
	g.named = true
	if e.Remove {
		g.removed, g.Set, g.HasPassword, g.sealed = true, node.Values{}, false, nil
		return
	}
	g.password = b.set("group "+e.Name, g.Set, e, node.CheckGroup)
	if g.password != nil && g.was != nil && b.same(*g.password, g.was.sealed, groupOwner(g.Name)) {
		g.password = nil
	}
	if g.password != nil {
		g.HasPassword = *g.password != ""
	}
}

func (b *book) editNode(e Edit) {
	n := b.nodes[node.Name(e.Name)]
	if !b.made(e, n != nil, "node") {
		return
	}
	if !node.IsName(e.Name) {
		b.wrong("", "", &api.Error{Code: "bad_request", Message: fmt.Sprintf("%q is no name for a node: want lower-case letters, digits and hyphens, at most 63", e.Name)})
		return
	}
	if n == nil {
		n = &nodeDraft{record: record{node: node.Node{Name: node.Name(e.Name), Boot: node.BootDisk, Created: b.db.now()}, Sources: node.Sources{Own: node.Values{}}}}
		b.nodes[n.node.Name] = n
	}
	n.named, n.touched = true, true
	before := len(b.errs)
	password := b.set(e.Name, n.Own, e, node.Check)
	n.wrong = len(b.errs) > before
	if password == nil || n.was != nil && b.same(*password, n.was.sealed, e.Name) {
		return
	}
	n.password, n.HasPassword = password, *password != ""
}

// same tells whether a password is the one that is kept already, so that the same change twice is none the second time.
func (b *book) same(password string, sealed []byte, owner string) bool {
	have, err := b.db.unseal(sealed, owner, owner)
	return err == nil && have == password
}

// set puts an edit's values over those that there are, and gives the password where it says one.
func (b *book) set(who string, have node.Values, e Edit, check func(key, value string) (string, error)) (password *string) {
	if e.Replace {
		for k := range have {
			if _, ok := e.Set[k]; !ok {
				delete(have, k)
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(e.Set), node.CompareKeys) {
		v := e.Set[k]
		if op, ok := strings.CutPrefix(k, "groups"); ok && (op == "+" || op == "-") {
			k, v = "groups", changeList(have["groups"], v, op == "+")
		}
		v, err := check(k, v)
		switch {
		case err != nil:
			b.wrong(who, k, err)
		case k == node.KeyPassword:
			password = &v
		case v == "":
			delete(have, k)
		default:
			have[k] = v
		}
	}
	return password
}

// changeList adds the names of one list to another, or takes them away.
func changeList(have, change string, add bool) string {
	out := node.List(have)
	for _, g := range node.List(change) {
		i := slices.Index(out, g)
		switch {
		case add && i < 0:
			out = append(out, g)
		case !add && i >= 0:
			out = slices.Delete(out, i, i+1)
		}
	}
	return strings.Join(out, ",")
}

// settle makes groups that nodes name, takes those away that are removed, and fills in what is inherited now.
func (b *book) settle() {
	changed := map[string]bool{}
	for name, g := range b.groups {
		changed[name] = g.named
	}
	for _, n := range b.nodes {
		list := node.List(n.Own["groups"])
		kept := slices.DeleteFunc(slices.Clone(list), func(g string) bool { return b.groups[g] != nil && b.groups[g].removed })
		if len(kept) < len(list) {
			n.touched = true
			if n.Own["groups"] = strings.Join(kept, ","); len(kept) == 0 {
				delete(n.Own, "groups")
			}
		}
		for _, g := range kept {
			if b.groups[g] == nil {
				b.groups[g] = &groupDraft{group: group{Group: node.Group{Name: g, Set: node.Values{}}}}
			}
		}
	}
	for _, n := range b.nodes {
		for _, g := range n.Own.Order() {
			n.touched = n.touched || changed[g]
		}
		if !n.touched {
			continue
		}
		n.Groups = nil
		for _, g := range n.Own.Order() {
			if d := b.groups[g]; d != nil && !d.removed {
				n.Groups = append(n.Groups, d.Group)
			}
		}
		n.Fill(&n.node)
	}
}

// names are the names of all nodes, in order.
func (b *book) names() []node.Name { return slices.Sorted(maps.Keys(b.nodes)) }
